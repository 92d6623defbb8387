-- The transaction that changed a sale last, so that an index finds what main committed after a heartbeat. Without it,
-- each count of a standby's loss would read all sales ever made.
--
-- The index is built within the migration, during which no sale is written: migrate between drops.
ALTER TABLE fairdrop.sales ADD COLUMN changed_in xid8 NOT NULL DEFAULT '0';
ALTER TABLE fairdrop.sales ALTER COLUMN changed_in SET DEFAULT pg_current_xact_id();
CREATE INDEX sales_changed ON fairdrop.sales (changed_in);

CREATE FUNCTION fairdrop.mark_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id();
    RETURN NEW;
END $$;
-- Triggers run in the order of their names: after check_transition, which compares the row with the old one.
CREATE TRIGGER mark_change BEFORE UPDATE ON fairdrop.sales
    FOR EACH ROW EXECUTE FUNCTION fairdrop.mark_change();

-- Comparable with the column above, which a plain xid is not. Heartbeats are written again every second.
DELETE FROM fairdrop.heartbeats;
ALTER TABLE fairdrop.heartbeats DROP COLUMN oldest_transaction;
ALTER TABLE fairdrop.heartbeats ADD COLUMN oldest_transaction xid8 NOT NULL;
