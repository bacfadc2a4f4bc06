-- Warm starts, pausing, repeated creates and deleted names. Metadata is searched by the list's filter, job by job.

ALTER TABLE jobs ADD COLUMN base_model TEXT;            -- as the request named it
ALTER TABLE jobs ADD COLUMN base_model_version INTEGER; -- the version that the name meant then
ALTER TABLE jobs ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN claims INTEGER NOT NULL DEFAULT 0; -- how often it was set to running
ALTER TABLE jobs ADD COLUMN idempotency_key TEXT;
ALTER TABLE jobs ADD COLUMN body_sha256 TEXT NOT NULL DEFAULT '';

DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (key_id, paused, seq) WHERE status = 'queued';
-- A repeated create is looked for among the key's newest jobs only.
CREATE INDEX jobs_of_key ON jobs (key_id, created_at);
CREATE INDEX jobs_of_idempotency_key ON jobs (key_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Names of deleted jobs and models, so that deleting what is gone already can answer 200 where a client expects it.
CREATE TABLE tombstones (
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    name       TEXT NOT NULL, -- a job id or a served name
    deleted_as TEXT NOT NULL CHECK (deleted_as IN ('job', 'model')),
    seq        INTEGER,       -- of a job: where it stood in the list, for whoever pages on from there
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX tombstones_by_age ON tombstones (created_at);
