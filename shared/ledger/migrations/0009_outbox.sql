-- The outbox: an event for each change of a sale, and for each closing of an item, for the shop. The transaction that
-- decides a change writes its event, so no change is without its event and no event without its change. shop-events
-- publishes them.

-- Events are written while a publisher wants them. Each run of shop-events moves this moment to two weeks ahead
-- (microseconds since the Unix epoch). So a ledger without a publisher has no costs, and after one has gone the outbox
-- does not grow for longer than that.
CREATE TABLE fairdrop.outbox_wanted (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    until bigint NOT NULL CHECK (until BETWEEN 0 AND 9007199254740991)
);
INSERT INTO fairdrop.outbox_wanted (until) VALUES (0);

-- The sequence of the item's newest event. A transaction that changes it has locked the item's row until it commits, so
-- sequences have no gaps, and an event is never visible before one with a lower sequence.
ALTER TABLE fairdrop.items ADD COLUMN last_event bigint NOT NULL DEFAULT 0 CHECK (last_event >= 0);
-- The closing time that the newest event about it has reported.
ALTER TABLE fairdrop.items ADD COLUMN closed_event_for bigint;
CREATE INDEX items_closed_event_due ON fairdrop.items (closes_at)
    WHERE closes_at IS NOT NULL AND closed_event_for IS DISTINCT FROM closes_at;

CREATE TABLE fairdrop.outbox (
    item_id text NOT NULL REFERENCES fairdrop.items,
    sequence bigint NOT NULL CHECK (sequence > 0),
    kind text NOT NULL CHECK (kind IN ('reserved', 'extended', 'sold', 'released', 'voided', 'closed')),
    epoch bigint NOT NULL,
    -- When the change was decided, by the ledger's clock.
    at bigint NOT NULL,
    -- The sale after the change; absent for a closing.
    user_token text COLLATE "C",
    placed_at bigint,
    reserved_at bigint,
    hold_until bigint,
    payment_reference text,
    -- For a closing: from when on the item takes no orders.
    closes_at bigint,
    -- When EventBridge accepted the event.
    published_at bigint,
    -- Why EventBridge refused the event permanently. It is then not sent again, unless an operator asks for it.
    dead_letter text CHECK (octet_length(dead_letter) BETWEEN 1 AND 100),
    PRIMARY KEY (item_id, sequence),
    CHECK ((kind = 'closed') = (user_token IS NULL)),
    CHECK ((kind = 'closed') = (closes_at IS NOT NULL))
);
CREATE INDEX outbox_pending ON fairdrop.outbox (item_id, sequence)
    WHERE published_at IS NULL AND dead_letter IS NULL;
CREATE INDEX outbox_published ON fairdrop.outbox (published_at) WHERE published_at IS NOT NULL;
CREATE INDEX outbox_dead_letters ON fairdrop.outbox (item_id, sequence) WHERE dead_letter IS NOT NULL;

CREATE FUNCTION fairdrop.events_are_wanted() RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT until > extract(epoch FROM clock_timestamp()) * 1000000 FROM fairdrop.outbox_wanted
$$;

-- Writes the events of a statement. Its caller has locked the item's row before the rows of its sales.
CREATE FUNCTION fairdrop.write_events() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    decided_at bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    changes fairdrop.outbox[];
BEGIN
    IF NOT fairdrop.events_are_wanted() THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(ROW(item_id, NULL, state, epoch, decided_at, user_token, placed_at, reserved_at, hold_until,
                             payment_reference, NULL, NULL, NULL)::fairdrop.outbox
                         ORDER BY reserved_at, placed_at, user_token)
          INTO changes FROM after_rows;
    ELSE
        SELECT array_agg(ROW(item_id, NULL, kind, epoch, decided_at, user_token, placed_at, reserved_at, hold_until,
                             payment_reference, NULL, NULL, NULL)::fairdrop.outbox
                         ORDER BY reserved_at, placed_at, user_token)
          INTO changes
          FROM (SELECT sale.*,
                       CASE WHEN sale.state = 'released' AND before.state = 'sold' THEN 'voided'
                            WHEN sale.state <> before.state THEN sale.state
                            WHEN sale.state = 'reserved' AND sale.hold_until <> before.hold_until THEN 'extended'
                       END AS kind
                  FROM after_rows AS sale JOIN before_rows AS before USING (item_id, user_token)) AS sale
         WHERE kind IS NOT NULL;
    END IF;
    IF changes IS NULL THEN
        RETURN NULL;
    END IF;
    WITH added AS (
        SELECT item_id, count(*) AS events FROM unnest(changes) GROUP BY item_id
    ), numbered AS (
        UPDATE fairdrop.items SET last_event = last_event + added.events
          FROM added WHERE items.item_id = added.item_id
        RETURNING items.item_id, items.last_event - added.events AS before
    )
    INSERT INTO fairdrop.outbox (item_id, sequence, kind, epoch, at, user_token, placed_at, reserved_at, hold_until,
                                 payment_reference)
    SELECT item_id, before + row_number() OVER (PARTITION BY item_id ORDER BY place), kind, epoch, at, user_token,
           placed_at, reserved_at, hold_until, payment_reference
      FROM unnest(changes) WITH ORDINALITY AS change (item_id, sequence, kind, epoch, at, user_token, placed_at,
                                                      reserved_at, hold_until, payment_reference, closes_at,
                                                      published_at, dead_letter, place)
      JOIN numbered USING (item_id);
    RETURN NULL;
END $$;
CREATE TRIGGER write_events_of_new_sales AFTER INSERT ON fairdrop.sales
    REFERENCING NEW TABLE AS after_rows FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.write_events();
CREATE TRIGGER write_events_of_changed_sales AFTER UPDATE ON fairdrop.sales
    REFERENCING OLD TABLE AS before_rows NEW TABLE AS after_rows
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.write_events();

-- A closing is reported under a valid lease only. Sales have this rule themselves.
CREATE CONSTRAINT TRIGGER in_time AFTER INSERT ON fairdrop.outbox
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.kind = 'closed') EXECUTE FUNCTION fairdrop.in_time();

-- What was decided does not change. Whether the shop knows it does.
CREATE FUNCTION fairdrop.keep_event() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    OLD.published_at := NEW.published_at;
    OLD.dead_letter := NEW.dead_letter;
    IF NEW IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'an event does not change' USING ERRCODE = 'FD002';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_event BEFORE UPDATE ON fairdrop.outbox
    FOR EACH ROW EXECUTE FUNCTION fairdrop.keep_event();
-- Only published events are deleted.
CREATE FUNCTION fairdrop.keep_pending_event() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF OLD.published_at IS NULL THEN
        RAISE EXCEPTION 'an event is kept until it is published' USING ERRCODE = 'FD002';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER keep_pending_event BEFORE DELETE ON fairdrop.outbox
    FOR EACH ROW EXECUTE FUNCTION fairdrop.keep_pending_event();
CREATE TRIGGER outbox_stays BEFORE TRUNCATE ON fairdrop.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION fairdrop.refuse('an event is kept until it is published');
