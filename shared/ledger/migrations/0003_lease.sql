-- If a standby could take over, main sells by a lease that expires by itself. Each transaction sets the lease's end
-- (fairdrop.until, microseconds since the Unix epoch). The database compares it with its own clock when the transaction
-- *commits*. So a caller sells nothing if it was frozen between two statements, or if its commit was late.

-- Whether a lease is required. Once it is, nothing is sold without one.
ALTER TABLE fairdrop.current_epoch ADD COLUMN leased boolean NOT NULL DEFAULT false;
-- As before; in addition, a lease stays required.
DROP TRIGGER the_epoch_rises ON fairdrop.current_epoch;
CREATE TRIGGER the_epoch_rises BEFORE UPDATE ON fairdrop.current_epoch
    FOR EACH ROW WHEN (NEW.epoch < OLD.epoch OR NEW.epoch = OLD.epoch AND NEW.leased = OLD.leased OR OLD.leased AND NOT NEW.leased)
    EXECUTE FUNCTION fairdrop.refuse('the epoch only goes up, and a required lease stays required');

CREATE FUNCTION fairdrop.in_time() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    until bigint := nullif(current_setting('fairdrop.until', true), '')::bigint;
BEGIN
    IF until IS NULL THEN
        IF (SELECT leased FROM fairdrop.current_epoch) THEN
            RAISE EXCEPTION 'nothing is sold without a lease' USING ERRCODE = 'FD003';
        END IF;
    ELSIF extract(epoch FROM clock_timestamp()) * 1000000 >= until THEN
        RAISE EXCEPTION 'the lease had ended' USING ERRCODE = 'FD003';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER in_time AFTER INSERT OR UPDATE ON fairdrop.sales
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fairdrop.in_time();

-- Units that are not sold until an operator puts them on sale: after a failover, the old main may have sold them in
-- transactions that were not replicated.
ALTER TABLE fairdrop.items ADD COLUMN withheld integer NOT NULL DEFAULT 0 CHECK (withheld >= 0);
ALTER TABLE fairdrop.items DROP CONSTRAINT never_oversold;
ALTER TABLE fairdrop.items ADD CONSTRAINT never_oversold
    CHECK (units_taken >= 0 AND units_taken + withheld <= stock_total);
