-- The reign for which units of the item were last withheld: each failover keeps back once, on top of
-- what an earlier one has, however often its step is repeated.
ALTER TABLE fairdrop.items ADD COLUMN withheld_in_epoch bigint NOT NULL DEFAULT 0 CHECK (withheld_in_epoch >= 0);
