-- What payments that bought nothing were answered, where the answer is final: the shop gives the money back
-- after it, or has said itself that there is none. The buyer may have a unit again later, and a notice of that
-- payment which is late, or comes twice, must neither buy it nor release it. A payment that has bought stands
-- in its sale, and not here.
--
-- One row at most for each payment that the shop has told of: as many as were made, and no crowd adds to them.
CREATE TABLE fairdrop.payments (
    item_id text NOT NULL REFERENCES fairdrop.items,
    payment_reference text NOT NULL CHECK (octet_length(payment_reference) BETWEEN 1 AND 255),
    user_token text COLLATE "C" NOT NULL CHECK (octet_length(user_token) BETWEEN 1 AND 255),
    -- As docs/PROBLEMS.md has them.
    answer text NOT NULL
        CHECK (answer IN ('reservation-ended', 'no-reservation', 'already-paid', 'already-extended')),
    epoch bigint NOT NULL,
    decided_at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    PRIMARY KEY (item_id, payment_reference)
);
CREATE TRIGGER payments_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON fairdrop.payments
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('a final answer is final');
-- Under a lease that is over nothing is refused for good, either.
CREATE CONSTRAINT TRIGGER in_time AFTER INSERT ON fairdrop.payments
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fairdrop.in_time();

-- A payment buys, or is refused for good, and never both. The two meet in no row, so that a lock on the
-- payment's reference makes one wait for the other; each then looks at what the other has left. It is taken
-- after those on the item's row and on the sale's, and before that on the reign's.
CREATE FUNCTION fairdrop.buy_unless_refused() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(NEW.item_id), hashtext(NEW.payment_reference));
    IF EXISTS (SELECT FROM fairdrop.payments
                WHERE item_id = NEW.item_id AND payment_reference = NEW.payment_reference) THEN
        RAISE EXCEPTION 'the payment was refused for good' USING ERRCODE = 'FD002', CONSTRAINT = 'one_answer';
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
    today bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(NEW.item_id), hashtext(NEW.payment_reference));
    -- As for sales.
    SELECT epoch INTO today FROM fairdrop.current_epoch FOR SHARE;
    IF NEW.epoch <> today THEN
        RAISE EXCEPTION 'written under another epoch than %', today USING ERRCODE = 'FD001';
    END IF;
    IF EXISTS (SELECT FROM fairdrop.sales
                WHERE item_id = NEW.item_id AND payment_reference = NEW.payment_reference) THEN
        RAISE EXCEPTION 'the payment has bought' USING ERRCODE = 'FD002', CONSTRAINT = 'one_payment_one_unit';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER one_answer BEFORE INSERT ON fairdrop.payments
    FOR EACH ROW EXECUTE FUNCTION fairdrop.refuse_unless_bought();
