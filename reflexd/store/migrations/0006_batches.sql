-- Batches of rows to classify. The rows lie in batches/<id>/, and so does what came of them: one line each, in order.

CREATE TABLE batches (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE, -- rbatch-... of /v1/reflex/asynchronous_batches, batch_... of /v1/batches
    tenant_id       TEXT NOT NULL REFERENCES tenants (id),
    key_id          TEXT NOT NULL REFERENCES keys (id), -- whose turns of the predictor it takes
    kind            TEXT NOT NULL CHECK (kind IN ('reflex', 'openai')),
    status          TEXT NOT NULL CHECK (status IN ('queued', 'in_progress', 'finalizing', 'completed', 'failed',
                                                    'cancelling', 'cancelled', 'expired')),
    endpoint        TEXT NOT NULL,
    options         TEXT NOT NULL DEFAULT '{}', -- JSON object: what is asked for all rows alike (fields, long_text)
    input_file_id   TEXT,
    output_file_id  TEXT,
    error_file_id   TEXT,
    output_seconds  INTEGER,          -- how long the output files are kept; NULL: as long as any file
    total           INTEGER NOT NULL DEFAULT 0,
    completed       INTEGER NOT NULL DEFAULT 0,
    failed          INTEGER NOT NULL DEFAULT 0,
    errors          TEXT,             -- JSON array of {code, line, message, param}: why the whole was refused
    metadata        TEXT,             -- JSON object
    idempotency_key TEXT,
    body_sha256     TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    in_progress_at  INTEGER,
    finalizing_at   INTEGER,
    cancelling_at   INTEGER,
    finished_at     INTEGER,
    expires_at      INTEGER NOT NULL,
    pins            TEXT NOT NULL DEFAULT '{}'  -- JSON object: for each named model the version that it meant at the
                                                -- start, by the name of its directory: a name@version may be shadowed;
                                                -- the last column, so that what is read of the others need not pass it
) STRICT;

CREATE INDEX batches_of_tenant ON batches (tenant_id, kind, seq);
CREATE INDEX batches_of_key ON batches (key_id, created_at); -- for what is sent again
CREATE INDEX batches_active ON batches (key_id) WHERE finished_at IS NULL;
CREATE INDEX batches_by_age ON batches (finished_at) WHERE finished_at IS NOT NULL;
