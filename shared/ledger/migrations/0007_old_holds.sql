-- After a forced failover, the old main may have sold a reservation from before the failover in a transaction that was
-- not replicated. Until an operator has compared, the end of such a hold releases nothing. The column has the moment at
-- which the epoch began (microseconds since the Unix epoch): reservations from before it stay reserved. 0: none.
ALTER TABLE fairdrop.items ADD COLUMN old_holds_before bigint NOT NULL DEFAULT 0
    CHECK (old_holds_before BETWEEN 0 AND 9007199254740991);
-- A unit that waits for payment could still be sold: it counts as unsold in the loss of a promotion.
CREATE INDEX sales_reserved ON fairdrop.sales (item_id) WHERE state = 'reserved';
