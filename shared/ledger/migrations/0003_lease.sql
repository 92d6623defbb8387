-- Where a standby could take over, main sells by a lease that ends by itself. The end comes with
-- each transaction (fairdrop.until, microseconds since the Unix epoch) and is held against the
-- database's own clock when the transaction *commits*: whoever was frozen between two of its
-- statements, or whose commit was long on its way, sells nothing.

-- Whether a lease is kept. Once it is, nothing is sold without one.
ALTER TABLE fairdrop.current_epoch ADD COLUMN leased boolean NOT NULL DEFAULT false;
-- As before, and neither does anybody stop keeping the lease.
DROP TRIGGER the_epoch_rises ON fairdrop.current_epoch;
CREATE TRIGGER the_epoch_rises BEFORE UPDATE ON fairdrop.current_epoch
    FOR EACH ROW WHEN (NEW.epoch < OLD.epoch OR NEW.epoch = OLD.epoch AND NEW.leased = OLD.leased OR OLD.leased AND NOT NEW.leased)
    EXECUTE FUNCTION fairdrop.refuse('the epoch only goes up, and a lease once kept is kept');

CREATE FUNCTION fairdrop.in_time() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    until bigint := nullif(current_setting('fairdrop.until', true), '')::bigint;
BEGIN
    IF until IS NULL THEN
        IF (SELECT leased FROM fairdrop.current_epoch) THEN
            RAISE EXCEPTION 'without a lease nothing is sold' USING ERRCODE = 'FD003';
        END IF;
    ELSIF extract(epoch FROM clock_timestamp()) * 1000000 >= until THEN
        RAISE EXCEPTION 'the lease was over' USING ERRCODE = 'FD003';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER in_time AFTER INSERT OR UPDATE ON fairdrop.sales
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fairdrop.in_time();

-- Units that are not sold until a person has said so: after a failover the old main may have sold
-- them, and its word has not come through.
ALTER TABLE fairdrop.items ADD COLUMN withheld integer NOT NULL DEFAULT 0 CHECK (withheld >= 0);
ALTER TABLE fairdrop.items DROP CONSTRAINT never_oversold;
ALTER TABLE fairdrop.items ADD CONSTRAINT never_oversold
    CHECK (units_taken >= 0 AND units_taken + withheld <= stock_total);
