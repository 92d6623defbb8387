-- The final answers to payments that bought nothing. After such an answer the shop returns the money, or has reported
-- itself that there is none. The buyer may have another reservation later: a late or repeated notice of that payment must
-- neither buy nor release it. A payment that has bought a unit stands in its sale, not here.
--
-- There is at most one row for each payment that the shop has reported, so that a crowd of buyers adds no rows.
CREATE TABLE fairdrop.payments (
    item_id text NOT NULL REFERENCES fairdrop.items,
    payment_reference text NOT NULL CHECK (octet_length(payment_reference) BETWEEN 1 AND 255),
    user_token text COLLATE "C" NOT NULL CHECK (octet_length(user_token) BETWEEN 1 AND 255),
    -- The names of docs/PROBLEMS.md.
    answer text NOT NULL
        CHECK (answer IN ('reservation-ended', 'no-reservation', 'already-paid', 'already-extended')),
    epoch bigint NOT NULL,
    decided_at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    PRIMARY KEY (item_id, payment_reference)
);
CREATE TRIGGER payments_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON fairdrop.payments
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('a final answer is final');
-- Without a valid lease, nothing is refused permanently either.
CREATE CONSTRAINT TRIGGER in_time AFTER INSERT ON fairdrop.payments
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fairdrop.in_time();

-- A payment buys a unit or is refused permanently, never both. The two transactions have no row in common. So a lock on
-- the payment's reference makes one wait for the other, and each then reads the other's result. The lock is taken after
-- the locks on the item's and the sale's rows, and before the lock on the epoch.
CREATE FUNCTION fairdrop.buy_unless_refused() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(NEW.item_id), hashtext(NEW.payment_reference));
    IF EXISTS (SELECT FROM fairdrop.payments
                WHERE item_id = NEW.item_id AND payment_reference = NEW.payment_reference) THEN
        RAISE EXCEPTION 'the payment was refused permanently' USING ERRCODE = 'FD002', CONSTRAINT = 'one_answer';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER one_answer BEFORE UPDATE OF payment_reference ON fairdrop.sales
    FOR EACH ROW WHEN (NEW.payment_reference IS NOT NULL
                       AND NEW.payment_reference IS DISTINCT FROM OLD.payment_reference)
    EXECUTE FUNCTION fairdrop.buy_unless_refused();
CREATE TRIGGER one_answer_at_first BEFORE INSERT ON fairdrop.sales
    FOR EACH ROW WHEN (NEW.payment_reference IS NOT NULL)
    EXECUTE FUNCTION fairdrop.buy_unless_refused();

CREATE FUNCTION fairdrop.refuse_unless_bought() RETURNS trigger
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
                WHERE item_id = NEW.item_id AND payment_reference = NEW.payment_reference) THEN
        RAISE EXCEPTION 'the payment has bought a unit' USING ERRCODE = 'FD002', CONSTRAINT = 'one_payment_one_unit';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER one_answer BEFORE INSERT ON fairdrop.payments
    FOR EACH ROW EXECUTE FUNCTION fairdrop.refuse_unless_bought();
