-- When the buyer's last reservation was released, in microseconds since the Unix epoch, by the ledger's clock. An order
-- that the buyer made before, while the buyer had the unit, does not count, and a replay of the order logs leaves it out.
ALTER TABLE fairdrop.sales ADD COLUMN released_at bigint CHECK (released_at BETWEEN 0 AND 9007199254740991);

-- A trigger, so that functions from before this migration keep the column right, too.
CREATE FUNCTION fairdrop.mark_release() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    NEW.released_at := CASE WHEN NEW.state = 'released' THEN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint END;
    RETURN NEW;
END $$;
-- Triggers run in the order of their names: after check_transition, which compares the row with the old one.
CREATE TRIGGER mark_release BEFORE UPDATE ON fairdrop.sales
    FOR EACH ROW WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION fairdrop.mark_release();
