-- The ledger: the system of record of sales. The database enforces its own rules, whatever the code asks for: no unit is
-- sold twice, no transaction under an old epoch is accepted, and a sale changes only by the allowed transitions.
--
-- Moments are microseconds since the Unix epoch by main's clock, as in Redis.

-- The schema fairdrop exists already: it contains the list of migrations.

-- The current epoch, a fencing token: one row. A failover raises the epoch by one.
CREATE TABLE fairdrop.current_epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL CHECK (epoch >= 1),
    since timestamptz NOT NULL DEFAULT now()
);
INSERT INTO fairdrop.current_epoch (epoch) VALUES (1);

CREATE TABLE fairdrop.items (
    item_id text PRIMARY KEY CHECK (item_id ~ '^[A-Za-z0-9._-]{1,64}$' AND item_id NOT IN ('.', '..')),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    stock_total integer NOT NULL CHECK (stock_total BETWEEN 0 AND 10000000),
    -- Units reserved or sold. Only the trigger on sales writes this column.
    units_taken integer NOT NULL DEFAULT 0,
    opens_at bigint NOT NULL CHECK (opens_at BETWEEN 0 AND 9007199254740991),
    closes_at bigint CHECK (closes_at BETWEEN 0 AND 9007199254740991),
    hold_seconds integer NOT NULL CHECK (hold_seconds BETWEEN 0 AND 86400),
    settle_window_ms integer NOT NULL CHECK (settle_window_ms BETWEEN 50 AND 25000),
    paused boolean NOT NULL DEFAULT false,
    CONSTRAINT never_oversold CHECK (units_taken BETWEEN 0 AND stock_total)
);

CREATE TABLE fairdrop.sales (
    item_id text NOT NULL REFERENCES fairdrop.items,
    user_token text COLLATE "C" NOT NULL CHECK (octet_length(user_token) BETWEEN 1 AND 255),
    state text NOT NULL CHECK (state IN ('reserved', 'sold', 'released')),
    placed_at bigint NOT NULL CHECK (placed_at BETWEEN 0 AND 9007199254740991),
    -- When the unit was reserved. It distinguishes a buyer's reservations.
    reserved_at bigint NOT NULL CHECK (reserved_at BETWEEN 0 AND 9007199254740991),
    -- The end of the hold.
    hold_until bigint NOT NULL CHECK (hold_until BETWEEN 0 AND 9007199254740991),
    -- The payment for which the hold was extended. A hold is extended once.
    extended_for text CHECK (octet_length(extended_for) BETWEEN 1 AND 255),
    payment_reference text CHECK (octet_length(payment_reference) BETWEEN 1 AND 255),
    epoch bigint NOT NULL,
    PRIMARY KEY (item_id, user_token)
);
-- One payment buys one unit of an item.
CREATE UNIQUE INDEX one_payment_one_unit ON fairdrop.sales (item_id, payment_reference)
    WHERE payment_reference IS NOT NULL;
-- For the audit, which reads sales in the order of their reservations.
CREATE INDEX sales_in_order ON fairdrop.sales (item_id, reserved_at, placed_at, user_token);

-- Locks are taken in one order everywhere: the item's row, then its sales.

-- The allowed transitions: from reserved to sold or released; from released only to a newer reservation; from sold none.
CREATE FUNCTION fairdrop.check_transition() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF OLD.state = 'sold' THEN
        -- Only the reference of a later payment may be added.
        IF NEW.payment_reference IS NOT NULL AND OLD.payment_reference IS NULL THEN
            OLD.payment_reference := NEW.payment_reference;
            OLD.epoch := NEW.epoch;
        END IF;
        IF NEW IS DISTINCT FROM OLD THEN
            RAISE EXCEPTION 'a sold sale cannot change' USING ERRCODE = 'FD002';
        END IF;
    ELSIF OLD.state = 'released' AND NEW.reserved_at <= OLD.reserved_at THEN
        RAISE EXCEPTION 'a released reservation cannot become active again' USING ERRCODE = 'FD002';
    ELSIF OLD.state = 'reserved' AND NEW.reserved_at <> OLD.reserved_at THEN
        RAISE EXCEPTION 'an active reservation cannot be replaced by another' USING ERRCODE = 'FD002';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_transition BEFORE UPDATE ON fairdrop.sales
    FOR EACH ROW EXECUTE FUNCTION fairdrop.check_transition();

-- Counts the units of a statement against the stock, which the constraint never_oversold limits, and refuses rows under
-- another epoch than the current one.
CREATE FUNCTION fairdrop.count_units() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    valid_epoch bigint;
BEGIN
    -- The lock makes a change of the epoch wait for transactions in progress, and the other way round.
    SELECT epoch INTO valid_epoch FROM fairdrop.current_epoch FOR SHARE;
    IF EXISTS (SELECT FROM after_rows WHERE epoch <> valid_epoch) THEN
        RAISE EXCEPTION 'written under another epoch than %', valid_epoch USING ERRCODE = 'FD001';
    END IF;
    IF TG_OP = 'INSERT' THEN
        UPDATE fairdrop.items SET units_taken = units_taken + change.units
          FROM (SELECT item_id, count(*) AS units FROM after_rows WHERE state <> 'released' GROUP BY item_id) AS change
         WHERE items.item_id = change.item_id;
    ELSE
        UPDATE fairdrop.items SET units_taken = units_taken + change.units
          FROM (SELECT item_id, sum(units) AS units
                  FROM (SELECT item_id, 1 AS units FROM after_rows WHERE state <> 'released'
                        UNION ALL
                        SELECT item_id, -1 FROM before_rows WHERE state <> 'released') AS units
                 GROUP BY item_id HAVING sum(units) <> 0) AS change
         WHERE items.item_id = change.item_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER count_new_units AFTER INSERT ON fairdrop.sales
    REFERENCING NEW TABLE AS after_rows FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.count_units();
CREATE TRIGGER count_changed_units AFTER UPDATE ON fairdrop.sales
    REFERENCING OLD TABLE AS before_rows NEW TABLE AS after_rows
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.count_units();

-- No row is deleted from the ledger, and only the trigger above counts units.
CREATE FUNCTION fairdrop.refuse() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION '% on fairdrop.%: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'FD002';
END $$;
CREATE TRIGGER sales_stay BEFORE DELETE OR TRUNCATE ON fairdrop.sales
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('sales are never deleted');
CREATE TRIGGER only_the_trigger_counts BEFORE UPDATE OF units_taken ON fairdrop.items
    FOR EACH ROW WHEN (OLD.units_taken <> NEW.units_taken AND pg_trigger_depth() = 0)
    EXECUTE FUNCTION fairdrop.refuse('units_taken is counted from the sales');
CREATE TRIGGER the_epoch_rises BEFORE UPDATE ON fairdrop.current_epoch
    FOR EACH ROW WHEN (NEW.epoch <= OLD.epoch)
    EXECUTE FUNCTION fairdrop.refuse('the epoch only goes up');
CREATE TRIGGER the_epoch_stays BEFORE DELETE OR TRUNCATE ON fairdrop.current_epoch
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('there is always an epoch');
