-- Buyers whose names are removed. A row is written in place of the name: a pseudonym, which is in no other system.
CREATE TABLE fairdrop.erasures (
    pseudonym text COLLATE "C" PRIMARY KEY CHECK (pseudonym ~ '^erased-[0-9a-f]{32}$'),
    -- As the operator gave it. CloudTrail has the identity by which drop-admin was invoked.
    erased_by text NOT NULL CHECK (char_length(erased_by) BETWEEN 1 AND 100),
    -- Microseconds since the Unix epoch, by the ledger's clock.
    erased_at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    epoch bigint NOT NULL
);
CREATE TRIGGER erasures_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON fairdrop.erasures
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('the record of an erasure stays');
CREATE TRIGGER check_epoch BEFORE INSERT ON fairdrop.erasures
    FOR EACH ROW EXECUTE FUNCTION fairdrop.check_epoch();
CREATE CONSTRAINT TRIGGER in_time AFTER INSERT ON fairdrop.erasures
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fairdrop.in_time();

-- A row gets another buyer only by an erasure, of an archived item, and changes in nothing else.
CREATE FUNCTION fairdrop.check_erasure() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM fairdrop.erasures WHERE pseudonym = NEW.user_token)
       OR NOT EXISTS (SELECT FROM fairdrop.items WHERE item_id = OLD.item_id AND archived_at IS NOT NULL) THEN
        RAISE EXCEPTION 'a row keeps its buyer until the buyer is erased from an archived item' USING ERRCODE = 'FD002';
    END IF;
    OLD.user_token := NEW.user_token;
    IF NEW IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'an erasure changes nothing but the buyer' USING ERRCODE = 'FD002';
    END IF;
    RETURN NEW;
END $$;
-- Triggers run in the order of their names: before those that change a row.
CREATE TRIGGER a_check_erasure BEFORE UPDATE ON fairdrop.sales
    FOR EACH ROW WHEN (NEW.user_token IS DISTINCT FROM OLD.user_token) EXECUTE FUNCTION fairdrop.check_erasure();
CREATE TRIGGER a_check_erasure BEFORE UPDATE ON fairdrop.payments
    FOR EACH ROW WHEN (NEW.user_token IS DISTINCT FROM OLD.user_token) EXECUTE FUNCTION fairdrop.check_erasure();
CREATE TRIGGER a_check_erasure BEFORE UPDATE ON fairdrop.voids
    FOR EACH ROW WHEN (NEW.user_token IS DISTINCT FROM OLD.user_token) EXECUTE FUNCTION fairdrop.check_erasure();
CREATE TRIGGER a_check_erasure BEFORE UPDATE ON fairdrop.exclusions
    FOR EACH ROW WHEN (NEW.user_token IS DISTINCT FROM OLD.user_token) EXECUTE FUNCTION fairdrop.check_erasure();
CREATE TRIGGER a_check_erasure BEFORE UPDATE ON fairdrop.unpaid_holds
    FOR EACH ROW WHEN (NEW.user_token IS DISTINCT FROM OLD.user_token) EXECUTE FUNCTION fairdrop.check_erasure();
CREATE TRIGGER a_check_erasure BEFORE UPDATE ON fairdrop.attempts
    FOR EACH ROW WHEN (NEW.user_token IS DISTINCT FROM OLD.user_token) EXECUTE FUNCTION fairdrop.check_erasure();
CREATE TRIGGER a_check_erasure BEFORE UPDATE ON fairdrop.outbox
    FOR EACH ROW WHEN (NEW.user_token IS DISTINCT FROM OLD.user_token) EXECUTE FUNCTION fairdrop.check_erasure();

-- What refuses or accompanies changes of a row leaves erasures to the trigger above.
DROP TRIGGER check_transition ON fairdrop.sales;
CREATE TRIGGER check_transition BEFORE UPDATE ON fairdrop.sales
    FOR EACH ROW WHEN (NEW.user_token = OLD.user_token) EXECUTE FUNCTION fairdrop.check_transition();
DROP TRIGGER keep_ends ON fairdrop.sales;
CREATE TRIGGER keep_ends BEFORE UPDATE ON fairdrop.sales
    FOR EACH ROW WHEN (NEW.user_token = OLD.user_token
                       AND (OLD.state IN ('released', 'voided') OR NEW.hold_until <> OLD.hold_until))
    EXECUTE FUNCTION fairdrop.keep_ends();
DROP TRIGGER mark_change ON fairdrop.sales;
CREATE TRIGGER mark_change BEFORE UPDATE ON fairdrop.sales
    FOR EACH ROW WHEN (NEW.user_token = OLD.user_token) EXECUTE FUNCTION fairdrop.mark_change();
DROP TRIGGER keep_event ON fairdrop.outbox;
CREATE TRIGGER keep_event BEFORE UPDATE ON fairdrop.outbox
    FOR EACH ROW WHEN (NEW.user_token IS NOT DISTINCT FROM OLD.user_token) EXECUTE FUNCTION fairdrop.keep_event();
DROP TRIGGER payments_stay ON fairdrop.payments;
CREATE TRIGGER payments_stay BEFORE DELETE OR TRUNCATE ON fairdrop.payments
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('a final answer is final');
CREATE TRIGGER payments_are_final BEFORE UPDATE ON fairdrop.payments
    FOR EACH ROW WHEN (NEW.user_token = OLD.user_token) EXECUTE FUNCTION fairdrop.refuse('a final answer is final');

-- As before, except for the rows of buyers who are erased: they keep the epoch under which they were written.
CREATE OR REPLACE FUNCTION fairdrop.count_units() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    valid_epoch bigint;
BEGIN
    -- The lock makes a change of the epoch wait for transactions in progress, and the other way round.
    SELECT epoch INTO valid_epoch FROM fairdrop.current_epoch FOR SHARE;
    IF EXISTS (SELECT FROM after_rows
                WHERE epoch <> valid_epoch
                  AND NOT EXISTS (SELECT FROM fairdrop.erasures WHERE pseudonym = after_rows.user_token)) THEN
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
