-- Who changed what. Each record holds the hash of the one before, so that none can be altered, left out or moved.
-- What is said about people (`subject`) can be forgotten: the chain goes over its salted hash.
CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    origin  TEXT NOT NULL,
    proof   TEXT NOT NULL,
    action  TEXT NOT NULL,
    seal    TEXT NOT NULL,
    hash    TEXT NOT NULL,
    subject TEXT,
    salt    TEXT
) STRICT;
CREATE TRIGGER audit_stays BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'records of the audit trail are not removed'); END;
CREATE TRIGGER audit_holds BEFORE UPDATE OF seq, at, actor, origin, proof, action, seal, hash ON audit
BEGIN SELECT RAISE(ABORT, 'records of the audit trail are not changed'); END;
