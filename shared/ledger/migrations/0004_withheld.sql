-- The epoch for which units of the item were last withheld. Each failover withholds units once, in addition to those of
-- an earlier failover, however often its step is repeated.
ALTER TABLE fairdrop.items ADD COLUMN withheld_in_epoch bigint NOT NULL DEFAULT 0 CHECK (withheld_in_epoch >= 0);
