-- Holds that ended without a payment, and an item's limit for the buyers who have many of them.

CREATE TABLE fairdrop.unpaid_holds (
    item_id text NOT NULL REFERENCES fairdrop.items,
    user_token text COLLATE "C" NOT NULL CHECK (octet_length(user_token) BETWEEN 1 AND 255),
    reserved_at bigint NOT NULL,
    -- Microseconds since the Unix epoch, by the ledger's clock.
    ended_at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    PRIMARY KEY (item_id, user_token, reserved_at)
);
CREATE INDEX unpaid_holds_of_buyer ON fairdrop.unpaid_holds (user_token, ended_at);

-- A buyer with this number of unpaid holds of any items in the last 30 days is excluded when a unit of this item is
-- reserved for them. NULL: no limit.
ALTER TABLE fairdrop.items ADD COLUMN max_unpaid smallint CHECK (max_unpaid BETWEEN 1 AND 100);
