-- The units that the failover to withheld_in_epoch has withheld. If a failover goes on with another Redis, units are free
-- that the Redis before had promised: they are withheld in addition, up to the number that the operator has asked for.
ALTER TABLE fairdrop.items ADD COLUMN withheld_for_epoch integer NOT NULL DEFAULT 0 CHECK (withheld_for_epoch >= 0);
