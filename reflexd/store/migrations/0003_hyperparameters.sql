-- What of a request's hyperparameters is heeded; the rest is answered with an event and forgotten.

ALTER TABLE jobs ADD COLUMN hyperparameters TEXT NOT NULL DEFAULT '{}';
