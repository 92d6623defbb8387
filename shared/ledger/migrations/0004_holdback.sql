-- The reign for which units of the item were last kept back: each failover keeps back once, on top of
-- what an earlier one has, however often its step is repeated.
ALTER TABLE fairdrop.items ADD COLUMN held_back_in bigint NOT NULL DEFAULT 0 CHECK (held_back_in >= 0);
