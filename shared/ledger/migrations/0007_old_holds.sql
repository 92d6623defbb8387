-- After a forced failover a reservation that was made before it may have been paid for with the old main, whose
-- word has not come through. While it may, the end of its hold releases nothing: a person compares first. Kept back
-- is what was reserved before this moment (microseconds since the Unix epoch), when the reign began; 0: nothing.
ALTER TABLE fairdrop.items ADD COLUMN old_holds_before bigint NOT NULL DEFAULT 0
    CHECK (old_holds_before BETWEEN 0 AND 9007199254740991);
-- What waits for payment could still be sold: it is counted wherever it is said what a promotion would lose.
CREATE INDEX sales_reserved ON fairdrop.sales (item_id) WHERE state = 'reserved';
