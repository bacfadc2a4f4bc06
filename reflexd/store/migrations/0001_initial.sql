-- Times are unix seconds. JSON columns hold what the API shows and are never searched.

CREATE TABLE tenants (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

-- Revoking keeps the row: jobs point at it.
CREATE TABLE keys (
    id         TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    name       TEXT NOT NULL,
    digest     TEXT NOT NULL UNIQUE, -- SHA-256 of the key, in hex
    hint       TEXT NOT NULL,        -- the first characters, to recognise it by
    scopes     TEXT NOT NULL,        -- JSON array
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    served     INTEGER NOT NULL DEFAULT 0 -- the claim counter at this key's latest claim: the fair order between keys
) STRICT;

CREATE TABLE jobs (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT, -- order of creation, and the paging key
    id               TEXT NOT NULL UNIQUE,
    tenant_id        TEXT NOT NULL REFERENCES tenants (id),
    key_id           TEXT NOT NULL REFERENCES keys (id),
    status           TEXT NOT NULL CHECK (status IN
                         ('queued', 'running', 'prepared', 'succeeded', 'failed', 'cancelled')),
    stage            TEXT NOT NULL DEFAULT 'prepare' CHECK (stage IN ('prepare', 'train')),
    source           TEXT NOT NULL, -- the data source's name
    suffix           TEXT,
    model            TEXT NOT NULL,
    labels           TEXT NOT NULL, -- JSON array
    mode             TEXT NOT NULL DEFAULT 'single_label',
    auto_train       INTEGER NOT NULL DEFAULT 1,
    seed             INTEGER NOT NULL,
    metadata         TEXT,          -- JSON object
    training_file    TEXT NOT NULL,
    trained_examples INTEGER NOT NULL DEFAULT 0,
    trained_tokens   INTEGER,
    result           TEXT,          -- JSON object
    error            TEXT,          -- JSON object {code, message, param}
    attempts         INTEGER NOT NULL DEFAULT 0, -- deaths of the training process on its own
    interrupted      INTEGER NOT NULL DEFAULT 0, -- restarts of the daemon under a running job
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,
    finished_at      INTEGER
) STRICT;

CREATE INDEX jobs_of_tenant ON jobs (tenant_id, seq);
CREATE INDEX jobs_queued ON jobs (key_id, seq) WHERE status = 'queued';
CREATE INDEX jobs_running ON jobs (key_id) WHERE status = 'running';
CREATE INDEX jobs_of_name ON jobs (tenant_id, suffix) WHERE suffix IS NOT NULL;

-- `n` counts a job's events from 1 without a gap.
CREATE TABLE events (
    job_id     TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    n          INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    level      TEXT NOT NULL CHECK (level IN ('info', 'warn', 'error')),
    type       TEXT NOT NULL CHECK (type IN ('message', 'metrics')),
    message    TEXT NOT NULL,
    data       TEXT NOT NULL, -- JSON object
    PRIMARY KEY (job_id, n)
) STRICT, WITHOUT ROWID;

-- The last version number a name was given; it is never given again, even when its version is deleted.
CREATE TABLE model_names (
    tenant_id    TEXT NOT NULL REFERENCES tenants (id),
    name         TEXT NOT NULL,
    last_version INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE model_versions (
    id         TEXT PRIMARY KEY, -- the random name of its directory
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    job_id     TEXT NOT NULL UNIQUE REFERENCES jobs (id) ON DELETE CASCADE,
    labels     TEXT NOT NULL, -- JSON array, in score order
    mode       TEXT NOT NULL,
    backbone   TEXT NOT NULL,
    precision  TEXT NOT NULL,
    result     TEXT,          -- JSON object
    created_at INTEGER NOT NULL,
    UNIQUE (tenant_id, name, version)
) STRICT;
