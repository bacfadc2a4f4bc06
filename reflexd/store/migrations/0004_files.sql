-- Files that were uploaded or made. The content of one lies in files/<sha256>, once for all that have the same.

CREATE TABLE files (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT, -- order of creation, and the paging key
    id         TEXT NOT NULL UNIQUE,
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    filename   TEXT NOT NULL, -- as the caller named it; never a path here
    purpose    TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    sha256     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;

CREATE INDEX files_of_tenant ON files (tenant_id, seq);
CREATE INDEX files_of_content ON files (sha256);
CREATE INDEX files_that_expire ON files (expires_at) WHERE expires_at IS NOT NULL;

-- What was deleted in the last hour, for a DELETE that is sent again because its answer was lost.
CREATE TABLE deleted_files (
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    id         TEXT NOT NULL,
    purpose    TEXT NOT NULL, -- says which keys may know of it
    deleted_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX deleted_files_by_age ON deleted_files (deleted_at);

ALTER TABLE jobs ADD COLUMN validation_file TEXT; -- a file's id as the request gave it; its rows lie in the run directory
