-- Who has taken a list of buyers out of the ledger, and when: a row for each page.
CREATE TABLE fairdrop.exports (
    export_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item_id text NOT NULL REFERENCES fairdrop.items,
    -- As the operator gave it. CloudTrail has the identity by which drop-admin was invoked.
    exported_by text NOT NULL CHECK (char_length(exported_by) BETWEEN 1 AND 100),
    -- Microseconds since the Unix epoch, by the ledger's clock.
    exported_at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    -- The number of sold units in the page.
    units integer NOT NULL CHECK (units >= 0)
);
CREATE TRIGGER exports_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON fairdrop.exports
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('the record of an export stays');
