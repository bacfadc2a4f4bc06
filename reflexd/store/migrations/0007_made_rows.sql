-- The ids of the files with the rows that a job's source has made.

ALTER TABLE jobs ADD COLUMN result_files TEXT NOT NULL DEFAULT '[]';
