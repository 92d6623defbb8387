-- After a forced failover a reservation of an earlier reign may have been paid for with the old main, whose
-- word has not come through. While it may, the end of its hold releases nothing: a person compares first.
ALTER TABLE fairdrop.items ADD COLUMN keeps_old_holds boolean NOT NULL DEFAULT false;
-- What waits for payment could still be sold: it is counted wherever it is said what a promotion would lose.
CREATE INDEX sales_reserved ON fairdrop.sales (item_id) WHERE state = 'reserved';
