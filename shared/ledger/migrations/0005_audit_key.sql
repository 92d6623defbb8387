-- The key for the hashes of buyers in audits. It is random (two UUIDs of version 4 have 244 random bits), and only a user
-- who may read this schema, and therefore the buyers themselves, knows it. The standby's replica has the same key: audits
-- before and after a failover can be compared.
CREATE TABLE fairdrop.audit_key (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    key bytea NOT NULL CHECK (octet_length(key) = 32)
);
INSERT INTO fairdrop.audit_key (key)
    VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));
CREATE TRIGGER the_audit_key_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON fairdrop.audit_key
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('audits are compared by their key');
