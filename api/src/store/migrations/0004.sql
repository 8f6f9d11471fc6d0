-- Decisions that held when they were erased: whoever polls must be told that they ended. Kept for a day.
CREATE TABLE gone (
    id         INTEGER NOT NULL,
    uuid       TEXT NOT NULL,
    origin     TEXT NOT NULL,
    type       TEXT NOT NULL,
    scope      TEXT NOT NULL,
    value      TEXT NOT NULL,
    scenario   TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    -- when it was erased
    until      INTEGER NOT NULL,
    simulated  INTEGER NOT NULL
) STRICT;
CREATE INDEX gone_until ON gone (until);
-- Archives beside the database into which old records of the audit trail were moved: the last record of each, its hash, and
-- the first one.
CREATE TABLE audit_archives (
    last  INTEGER PRIMARY KEY,
    hash  TEXT NOT NULL,
    first INTEGER NOT NULL
) STRICT;
DROP TRIGGER audit_stays;
CREATE TRIGGER audit_stays BEFORE DELETE ON audit
WHEN OLD.seq > (SELECT coalesce(max(last), 0) FROM audit_archives)
BEGIN SELECT RAISE(ABORT, 'records of the audit trail are not removed'); END;
