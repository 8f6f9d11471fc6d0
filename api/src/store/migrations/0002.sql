-- How often somebody was banned: outlives the alerts.
CREATE TABLE strikes (
    -- address or prefix, with its length
    net   TEXT PRIMARY KEY,
    count INTEGER NOT NULL,
    -- when the last ban was to end
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX strikes_until ON strikes (until);
