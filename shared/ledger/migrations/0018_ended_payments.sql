-- A hold that a pending payment has extended belongs to that payment. If the reservation ends without it, the payment is
-- answered permanently in the same transaction: its later notices neither buy nor release the buyer's next reservation.

-- The locks are taken as everywhere: the rows of the statement are locked already; then all references, in one order, and
-- then the epoch. So this trigger comes before count_changed_units: triggers run in the order of their names.
CREATE FUNCTION fairdrop.answer_extended() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    ended record;
BEGIN
    -- The payment that had bought a voided unit is answered by the transaction that voids it.
    FOR ended IN
        SELECT item_id, after_rows.extended_for AS reference
          FROM after_rows JOIN before_rows USING (item_id, user_token)
         WHERE after_rows.extended_for IS NOT NULL
           AND after_rows.extended_for IS DISTINCT FROM after_rows.payment_reference
           AND before_rows.state IN ('reserved', 'sold') AND after_rows.state IN ('released', 'voided')
         ORDER BY 1, 2
    LOOP
        PERFORM pg_advisory_xact_lock(hashtext(ended.item_id), hashtext(ended.reference));
    END LOOP;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- A payment has one answer. It may have bought another buyer's unit, or be answered already.
    INSERT INTO fairdrop.payments (item_id, payment_reference, user_token, answer, epoch)
    SELECT item_id, after_rows.extended_for, user_token,
           CASE after_rows.state WHEN 'voided' THEN 'unit-voided' ELSE 'reservation-ended' END, after_rows.epoch
      FROM after_rows JOIN before_rows USING (item_id, user_token)
     WHERE after_rows.extended_for IS NOT NULL
       AND after_rows.extended_for IS DISTINCT FROM after_rows.payment_reference
       AND before_rows.state IN ('reserved', 'sold') AND after_rows.state IN ('released', 'voided')
       AND NOT EXISTS (SELECT FROM fairdrop.sales AS bought
                        WHERE bought.item_id = after_rows.item_id
                          AND bought.payment_reference = after_rows.extended_for)
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER answer_extended AFTER UPDATE ON fairdrop.sales
    REFERENCING OLD TABLE AS before_rows NEW TABLE AS after_rows
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.answer_extended();
