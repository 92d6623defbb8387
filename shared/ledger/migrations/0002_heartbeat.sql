-- Main's heartbeats: one row a second, for a quarter of an hour, each with main's WAL position at that moment. A standby
-- that has received the WAL up to a heartbeat has every commit before it. So the age of that heartbeat is the most that
-- a promotion would lose, also if main is idle.
CREATE TABLE fairdrop.heartbeats (
    -- The heartbeat's second, modulo 900: rows are overwritten, and their number never grows.
    place smallint PRIMARY KEY CHECK (place BETWEEN 0 AND 899),
    -- By main's clock, microseconds since the Unix epoch.
    beat_at bigint NOT NULL CHECK (beat_at BETWEEN 0 AND 9007199254740991),
    -- The end of main's WAL at that moment.
    wal_position pg_lsn NOT NULL,
    -- This transaction and later ones may have been in progress, or may have begun since.
    oldest_transaction xid NOT NULL,
    epoch bigint NOT NULL
) WITH (fillfactor = 50);
