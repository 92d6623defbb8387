-- Holds that end later: for payments that take days, and after an outage.

-- The longest time from a reservation to the end of its hold, in seconds, for pending payments that name a moment. 0: a
-- pending payment extends the hold once, by hold_seconds.
ALTER TABLE fairdrop.items ADD COLUMN max_hold_seconds integer NOT NULL DEFAULT 0
    CHECK (max_hold_seconds BETWEEN 0 AND 1209600);
-- How often the payment extended_for has extended the hold, and how often the worker has after an outage. Both are
-- limited, so that each hold ends. earlier_ends has the ends that the hold had before: Redis may still have one of them.
-- Any other end in Redis is of another reservation of the buyer. There are at most 17: eight extensions, eight graces, and
-- an extension by functions from before this migration, which do not count it.
ALTER TABLE fairdrop.sales
    ADD COLUMN extensions smallint NOT NULL DEFAULT 0 CHECK (extensions BETWEEN 0 AND 8),
    ADD COLUMN graces smallint NOT NULL DEFAULT 0 CHECK (graces BETWEEN 0 AND 8),
    ADD COLUMN earlier_ends bigint[] NOT NULL DEFAULT '{}' CHECK (cardinality(earlier_ends) <= 17);

-- A trigger, so that functions from before this migration keep the columns right, too.
CREATE FUNCTION fairdrop.keep_ends() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF OLD.state = 'released' THEN
        -- A newer reservation of the buyer.
        NEW.extensions := 0;
        NEW.graces := 0;
        NEW.earlier_ends := '{}';
    ELSE
        NEW.earlier_ends := OLD.earlier_ends || OLD.hold_until;
    END IF;
    RETURN NEW;
END $$;
-- Triggers run in the order of their names: after check_transition.
CREATE TRIGGER keep_ends BEFORE UPDATE ON fairdrop.sales
    FOR EACH ROW WHEN (OLD.state = 'released' OR NEW.hold_until <> OLD.hold_until)
    EXECUTE FUNCTION fairdrop.keep_ends();

-- The last moment at which a worker could release reservations: it had the lease, and reached Redis and the ledger. No
-- hold ends by itself before grace_until. One row, from the first worker on. Moments are by main's Redis.
CREATE TABLE fairdrop.service (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    served_until bigint NOT NULL CHECK (served_until BETWEEN 0 AND 9007199254740991),
    grace_until bigint NOT NULL DEFAULT 0 CHECK (grace_until BETWEEN 0 AND 9007199254740991),
    -- The longest grace, as the last worker was configured.
    most_grace_us bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
-- For operators. Rows are deleted after 90 days.
CREATE TABLE fairdrop.outages (
    ended_at bigint PRIMARY KEY,
    began_at bigint NOT NULL CHECK (began_at < ended_at),
    grace_until bigint NOT NULL CHECK (grace_until >= ended_at)
);

-- Records that a worker serves at the moment now_us. If none has served for more than 5 s, that was an outage: the grace
-- lasts as long from now on, but at least 180 s, in which a notice that failed during the outage is repeated, and at most
-- most_us. Lambda repeats an event about one minute and three minutes after it failed. The replica of a standby has
-- the row, so that a failover is an outage, too. If the length of a gap is unknown, the grace is most_us: with the
-- first record while buyers hold units, and after the clock was set back by more than 5 s. Returns the end of the last
-- grace.
CREATE FUNCTION fairdrop.serve(now_us bigint, most_us bigint) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    known fairdrop.service;
    new_grace_until bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM fairdrop.service) THEN
        INSERT INTO fairdrop.service (served_until, grace_until, most_grace_us)
        SELECT now_us, CASE WHEN EXISTS (SELECT FROM fairdrop.sales WHERE state = 'reserved')
                            THEN now_us + most_us ELSE 0 END, most_us
            ON CONFLICT DO NOTHING;
    END IF;
    SELECT * INTO STRICT known FROM fairdrop.service FOR UPDATE;
    IF now_us < known.served_until - 5000000 THEN
        UPDATE fairdrop.service SET served_until = now_us, grace_until = now_us + most_us, most_grace_us = most_us;
        RETURN now_us + most_us;
    ELSIF now_us <= known.served_until THEN
        RETURN known.grace_until;
    END IF;
    new_grace_until := known.grace_until;
    IF now_us - known.served_until > 5000000 THEN
        new_grace_until := greatest(new_grace_until,
                                    now_us + least(greatest(now_us - known.served_until, 180000000), most_us));
        DELETE FROM fairdrop.outages WHERE ended_at < now_us - 90 * 86400000000;
        INSERT INTO fairdrop.outages (ended_at, began_at, grace_until)
            VALUES (now_us, known.served_until, new_grace_until)
            -- The clock was set back since then.
            ON CONFLICT DO NOTHING;
    END IF;
    UPDATE fairdrop.service SET served_until = now_us, grace_until = new_grace_until, most_grace_us = most_us;
    RETURN new_grace_until;
END $$;

-- Payments that were reported before the end of a hold, while Redis could not note them. Rows are deleted a day after.
CREATE TABLE fairdrop.attempts (
    item_id text NOT NULL REFERENCES fairdrop.items,
    user_token text COLLATE "C" NOT NULL CHECK (octet_length(user_token) BETWEEN 1 AND 255),
    -- The outcome and the payment's reference.
    notice text NOT NULL CHECK (octet_length(notice) BETWEEN 1 AND 300),
    -- The end of the hold at that time. 0: the notice was decided, and the hold goes on.
    hold_until bigint NOT NULL,
    PRIMARY KEY (item_id, user_token, notice)
);
-- Until when a hold that ends at ends_us waits for the repetition of such a payment. NULL if there is none.
CREATE FUNCTION fairdrop.noted_until(item text, buyer text, ends_us bigint) RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT ends_us + (SELECT most_grace_us FROM fairdrop.service)
     WHERE EXISTS (SELECT FROM fairdrop.attempts AS noted
                    WHERE noted.item_id = item AND noted.user_token = buyer AND noted.hold_until = ends_us)
$$;
