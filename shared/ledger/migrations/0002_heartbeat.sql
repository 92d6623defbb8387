-- When main was last seen alive, and how far its log had come: a row a second, for a quarter
-- of an hour. Whoever has received the log up to a beat has everything that was committed
-- before it, so that the beat's age is the most that a promotion would lose. An idle main
-- looks no different from a busy one.
CREATE TABLE fairdrop.heartbeats (
    -- The beat's second, modulo 900: rows are written over, and never grow in number.
    place smallint PRIMARY KEY CHECK (place BETWEEN 0 AND 899),
    -- By main's clock, microseconds since the Unix epoch.
    beat_at bigint NOT NULL CHECK (beat_at BETWEEN 0 AND 9007199254740991),
    -- The end of main's log at that moment.
    log_end pg_lsn NOT NULL,
    -- Transactions from this one on may have been under way, or begun since.
    oldest_transaction xid NOT NULL,
    epoch bigint NOT NULL
) WITH (fillfactor = 50);
