-- Units that an operator takes back, and buyers who get none.

-- Buyers who get no unit of an item, whatever they order.
CREATE TABLE fairdrop.exclusions (
    item_id text NOT NULL REFERENCES fairdrop.items,
    user_token text COLLATE "C" NOT NULL CHECK (octet_length(user_token) BETWEEN 1 AND 255),
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    -- As the operator gave it. CloudTrail has the identity by which drop-admin was invoked.
    excluded_by text CHECK (char_length(excluded_by) BETWEEN 1 AND 100),
    -- Microseconds since the Unix epoch, by the ledger's clock.
    excluded_at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    epoch bigint NOT NULL,
    PRIMARY KEY (item_id, user_token)
);
CREATE TRIGGER exclusions_stay BEFORE DELETE OR TRUNCATE ON fairdrop.exclusions
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('an exclusion stays');

-- A row for each unit that was taken back: the row of its sale is written again if the buyer is reserved again.
CREATE TABLE fairdrop.voids (
    void_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item_id text NOT NULL REFERENCES fairdrop.items,
    user_token text COLLATE "C" NOT NULL CHECK (octet_length(user_token) BETWEEN 1 AND 255),
    -- The sale before.
    was text NOT NULL CHECK (was IN ('reserved', 'sold')),
    placed_at bigint NOT NULL,
    reserved_at bigint NOT NULL,
    payment_reference text,
    -- The ends of the hold: Redis has one of them, unless the unit was sold.
    ends bigint[] NOT NULL,
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    voided_by text CHECK (char_length(voided_by) BETWEEN 1 AND 100),
    voided_at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    epoch bigint NOT NULL,
    -- Whether Redis has it.
    settled boolean NOT NULL DEFAULT false,
    UNIQUE (item_id, user_token, reserved_at)
);
CREATE INDEX voids_in_order ON fairdrop.voids (item_id, void_id);
CREATE INDEX voids_unsettled ON fairdrop.voids (void_id) WHERE NOT settled;
CREATE TRIGGER voids_stay BEFORE DELETE OR TRUNCATE ON fairdrop.voids
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('the record of a void stays');
CREATE TRIGGER voids_are_final
    BEFORE UPDATE OF item_id, was, placed_at, reserved_at, payment_reference, ends, reason, voided_by, voided_at, epoch
    ON fairdrop.voids
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('the record of a void stays');

-- As for sales: nothing is decided under an old epoch, or without a valid lease.
CREATE FUNCTION fairdrop.check_epoch() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    valid_epoch bigint;
BEGIN
    SELECT epoch INTO valid_epoch FROM fairdrop.current_epoch FOR SHARE;
    IF NEW.epoch <> valid_epoch THEN
        RAISE EXCEPTION 'written under another epoch than %', valid_epoch USING ERRCODE = 'FD001';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_epoch BEFORE INSERT ON fairdrop.exclusions
    FOR EACH ROW EXECUTE FUNCTION fairdrop.check_epoch();
CREATE CONSTRAINT TRIGGER in_time AFTER INSERT ON fairdrop.exclusions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fairdrop.in_time();

ALTER TABLE fairdrop.sales DROP CONSTRAINT sales_state_check;
ALTER TABLE fairdrop.sales ADD CONSTRAINT sales_state_check
    CHECK (state IN ('reserved', 'sold', 'released', 'voided'));
ALTER TABLE fairdrop.payments DROP CONSTRAINT payments_answer_check;
ALTER TABLE fairdrop.payments ADD CONSTRAINT payments_answer_check
    CHECK (answer IN ('reservation-ended', 'no-reservation', 'already-paid', 'already-extended', 'unit-voided'));

-- From reserved or sold also to voided, with its record; from voided only to a newer reservation, for a newer order: an
-- order that a failover of Redis has brought back does not bring its unit back.
CREATE OR REPLACE FUNCTION fairdrop.check_transition() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF NEW.state = 'voided' AND OLD.state IN ('reserved', 'sold') THEN
        IF NOT EXISTS (SELECT FROM fairdrop.voids WHERE item_id = OLD.item_id AND user_token = OLD.user_token
                                                    AND reserved_at = OLD.reserved_at) THEN
            RAISE EXCEPTION 'a unit is voided with a reason' USING ERRCODE = 'FD002';
        END IF;
        OLD.state := NEW.state;
        OLD.epoch := NEW.epoch;
        IF NEW IS DISTINCT FROM OLD THEN
            RAISE EXCEPTION 'a unit that is voided cannot change' USING ERRCODE = 'FD002';
        END IF;
    ELSIF OLD.state = 'sold' THEN
        -- Only the reference of a later payment may be added.
        IF NEW.payment_reference IS NOT NULL AND OLD.payment_reference IS NULL THEN
            OLD.payment_reference := NEW.payment_reference;
            OLD.epoch := NEW.epoch;
        END IF;
        IF NEW IS DISTINCT FROM OLD THEN
            RAISE EXCEPTION 'a sold sale cannot change' USING ERRCODE = 'FD002';
        END IF;
    ELSIF OLD.state = 'voided' AND (NEW.state = 'voided' OR NEW.placed_at <= OLD.placed_at
                                    OR NEW.reserved_at <= OLD.reserved_at) THEN
        RAISE EXCEPTION 'a voided unit cannot become active again' USING ERRCODE = 'FD002';
    ELSIF OLD.state = 'released' AND (NEW.state = 'voided' OR NEW.reserved_at <= OLD.reserved_at) THEN
        RAISE EXCEPTION 'a released reservation cannot become active again' USING ERRCODE = 'FD002';
    ELSIF OLD.state = 'reserved' AND NEW.reserved_at <> OLD.reserved_at THEN
        RAISE EXCEPTION 'an active reservation cannot be replaced by another' USING ERRCODE = 'FD002';
    END IF;
    RETURN NEW;
END $$;

-- Functions from before this migration do not know exclusions.
CREATE FUNCTION fairdrop.refuse_excluded() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF EXISTS (SELECT FROM fairdrop.exclusions
                WHERE item_id = NEW.item_id AND user_token = NEW.user_token) THEN
        RAISE EXCEPTION 'the buyer is excluded' USING ERRCODE = 'FD002', CONSTRAINT = 'excluded';
    END IF;
    RETURN NEW;
END $$;
-- Also before the update of a row that exists, since reservations are written by INSERT ... ON CONFLICT.
CREATE TRIGGER refuse_excluded BEFORE INSERT ON fairdrop.sales
    FOR EACH ROW EXECUTE FUNCTION fairdrop.refuse_excluded();

CREATE OR REPLACE FUNCTION fairdrop.count_units() RETURNS trigger
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
          FROM (SELECT item_id, count(*) AS units FROM after_rows WHERE state IN ('reserved', 'sold')
                 GROUP BY item_id) AS change
         WHERE items.item_id = change.item_id;
    ELSE
        UPDATE fairdrop.items SET units_taken = units_taken + change.units
          FROM (SELECT item_id, sum(units) AS units
                  FROM (SELECT item_id, 1 AS units FROM after_rows WHERE state IN ('reserved', 'sold')
                        UNION ALL
                        SELECT item_id, -1 FROM before_rows WHERE state IN ('reserved', 'sold')) AS units
                 GROUP BY item_id HAVING sum(units) <> 0) AS change
         WHERE items.item_id = change.item_id;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fairdrop.keep_ends() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF OLD.state IN ('released', 'voided') THEN
        -- A newer reservation of the buyer.
        NEW.extensions := 0;
        NEW.graces := 0;
        NEW.earlier_ends := '{}';
    ELSE
        NEW.earlier_ends := OLD.earlier_ends || OLD.hold_until;
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER keep_ends ON fairdrop.sales;
CREATE TRIGGER keep_ends BEFORE UPDATE ON fairdrop.sales
    FOR EACH ROW WHEN (OLD.state IN ('released', 'voided') OR NEW.hold_until <> OLD.hold_until)
    EXECUTE FUNCTION fairdrop.keep_ends();

-- An order that the buyer made before the void, while the buyer had the unit, does not count either.
CREATE OR REPLACE FUNCTION fairdrop.mark_release() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    NEW.released_at := CASE WHEN NEW.state IN ('released', 'voided')
                            THEN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint END;
    RETURN NEW;
END $$;

-- The payment of a voided unit is answered permanently, as one that bought nothing.
CREATE OR REPLACE FUNCTION fairdrop.refuse_unless_bought() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    valid_epoch bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(NEW.item_id), hashtext(NEW.payment_reference));
    -- As for sales.
    SELECT epoch INTO valid_epoch FROM fairdrop.current_epoch FOR SHARE;
    IF NEW.epoch <> valid_epoch THEN
        RAISE EXCEPTION 'written under another epoch than %', valid_epoch USING ERRCODE = 'FD001';
    END IF;
    IF EXISTS (SELECT FROM fairdrop.sales
                WHERE item_id = NEW.item_id AND payment_reference = NEW.payment_reference AND state <> 'voided') THEN
        RAISE EXCEPTION 'the payment has bought a unit' USING ERRCODE = 'FD002', CONSTRAINT = 'one_payment_one_unit';
    END IF;
    RETURN NEW;
END $$;
