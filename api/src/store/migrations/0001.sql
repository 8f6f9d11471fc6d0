-- Instants are whole microseconds since 1970 in UTC.
-- Addresses are 17 bytes, 4 or 6 first, so that prefixes compare as bytes and families never mix.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE alerts (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid       TEXT NOT NULL,
    machine    TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    scenario   TEXT NOT NULL,
    kind       TEXT NOT NULL,
    scope      TEXT NOT NULL,
    value      TEXT NOT NULL,
    simulated  INTEGER NOT NULL,
    body       TEXT NOT NULL
) STRICT;
CREATE INDEX alerts_created ON alerts (created_at);
CREATE INDEX alerts_value ON alerts (value);
CREATE INDEX alerts_scenario ON alerts (scenario);

CREATE TABLE decisions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    alert_id   INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
    uuid       TEXT NOT NULL,
    origin     TEXT NOT NULL,
    type       TEXT NOT NULL,
    scope      TEXT NOT NULL,
    value      TEXT NOT NULL,
    scenario   TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    until      INTEGER NOT NULL,
    simulated  INTEGER NOT NULL,
    -- 1 when it was ended before its time
    lifted     INTEGER NOT NULL DEFAULT 0,
    -- number of its last change, 0 when it was over before it was stored
    change     INTEGER NOT NULL,
    net_start  BLOB,
    net_end    BLOB
) STRICT;
CREATE INDEX decisions_alert ON decisions (alert_id);
CREATE INDEX decisions_until ON decisions (until);
CREATE INDEX decisions_net ON decisions (net_start) WHERE net_start IS NOT NULL;
CREATE INDEX decisions_lifted ON decisions (change) WHERE lifted = 1;

-- Alerts that came with an identity of their own, remembered longer than an agent may hold them back.
CREATE TABLE seen (
    key      BLOB PRIMARY KEY,
    alert_id INTEGER NOT NULL,
    at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_at ON seen (at);

CREATE TABLE machines (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE bouncers (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE allowlists (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE allowlist_items (
    list  TEXT NOT NULL REFERENCES allowlists (name) ON DELETE CASCADE,
    value TEXT NOT NULL,
    body  TEXT NOT NULL,
    PRIMARY KEY (list, value)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_metrics (
    id       INTEGER PRIMARY KEY,
    kind     TEXT NOT NULL,
    sender   TEXT NOT NULL,
    at       INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX usage_metrics_at ON usage_metrics (at);
