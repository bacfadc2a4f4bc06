-- The outbox of webhooks: a row is written in the transaction of what it tells, and kept as the delivery log.

ALTER TABLE jobs ADD COLUMN webhook_url TEXT;

-- A signature needs the secret itself, so it is the one secret that is kept as it is.
CREATE TABLE signing_secrets (
    tenant_id  TEXT PRIMARY KEY REFERENCES tenants (id),
    secret     TEXT NOT NULL, -- whsec_ and padded base64
    old_secret TEXT,
    old_until  INTEGER        -- until when the old one signs too
) STRICT, WITHOUT ROWID;

CREATE TABLE webhook_endpoints (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE,
    tenant_id       TEXT NOT NULL REFERENCES tenants (id),
    name            TEXT NOT NULL,
    url             TEXT NOT NULL,
    event_types     TEXT NOT NULL, -- JSON array
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    disabled_reason TEXT           -- why nothing is sent to it; NULL while it is in use
) STRICT;

CREATE INDEX endpoints_of_tenant ON webhook_endpoints (tenant_id, seq);

CREATE TABLE deliveries (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    tenant_id   TEXT NOT NULL REFERENCES tenants (id),
    event_id    TEXT NOT NULL, -- the webhook-id, the same at every attempt and receiver
    endpoint_id TEXT REFERENCES webhook_endpoints (id) ON DELETE SET NULL, -- NULL: a job's own webhook_url
    url         TEXT NOT NULL,
    receiver    TEXT NOT NULL, -- tenant and origin of the url: what one of these does holds up no other
    event_type  TEXT NOT NULL,
    object_id   TEXT NOT NULL, -- of the job or batch that it tells of
    body        BLOB NOT NULL, -- the very bytes that are signed and sent
    status      TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_at     REAL NOT NULL, -- of a pending one: when it is tried next
    last_status INTEGER,       -- the HTTP status of the latest answer; NULL where there was none
    last_error  TEXT,
    created_at  INTEGER NOT NULL,
    finished_at INTEGER
) STRICT;

CREATE INDEX deliveries_due ON deliveries (receiver, next_at) WHERE status = 'pending';
CREATE INDEX deliveries_next ON deliveries (next_at) WHERE status = 'pending';
CREATE INDEX deliveries_of_tenant ON deliveries (tenant_id, seq);
CREATE INDEX deliveries_of_object ON deliveries (object_id, seq);
CREATE INDEX deliveries_by_age ON deliveries (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX deliveries_of_endpoint ON deliveries (endpoint_id) WHERE endpoint_id IS NOT NULL;
