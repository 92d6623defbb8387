-- The end of an item, in two steps. Finished: nothing of it is reserved any more, and its queue is empty. Archived: Redis
-- no longer has it, and its name is never used again.
ALTER TABLE fairdrop.items
    -- When it was finished (microseconds since the Unix epoch, by main's clock).
    ADD COLUMN finished_at bigint CHECK (finished_at BETWEEN 0 AND 9007199254740991),
    -- When it was archived (likewise).
    ADD COLUMN archived_at bigint CHECK (archived_at BETWEEN 0 AND 9007199254740991),
    -- Whether Redis may still have to do what the newest step asks for: to empty the queue, or to delete the item.
    ADD COLUMN end_pending boolean NOT NULL DEFAULT false,
    -- Paused, so that functions from before this migration reserve nothing of it either, and do not resume it.
    ADD CONSTRAINT finished_is_closed
        CHECK (finished_at IS NULL OR paused AND closes_at IS NOT NULL AND closes_at <= finished_at),
    ADD CONSTRAINT archived_is_finished CHECK (archived_at IS NULL OR finished_at IS NOT NULL);
CREATE INDEX items_end_pending ON fairdrop.items (item_id) WHERE end_pending;
