-- Finishes an item, and removes some of the orders that wait: to be repeated until none is left.
--
-- KEYS  1 item:{id}   2 orders:{id}
-- ARGV  1 when the item was finished (us)   2 the maximum number of orders to remove, at most 500
--
-- From the first call on, drain.lua takes nothing, and place.lua refuses. The item loses its watermark `closed`, so that
-- place.lua finds `finished` without another read for every order of other items. `last_closed` keeps it: nothing of this
-- opening may enter a later one. The item is also paused, for drains of a version that does not know `finished`. Such a
-- version may have written `closed` again, or have let the item wait for a replay: each call removes that.
--
-- A caller may be late: if the item has opened again after this end (`reopened_after`), nothing happens.
--
-- Returns the orders removed, and those that are left.
local item = redis.call('HMGET', KEYS[1], 'stock_left', 'closed', 'last_closed', 'reopened_after')
if not item[1] then return redis.error_reply('NOITEM the item does not exist') end
if item[4] and tonumber(item[4]) >= tonumber(ARGV[1]) then return { 0, 0 } end
local last = ARGV[1]
for i = 2, 3 do
  if item[i] and tonumber(item[i]) > tonumber(last) then last = item[i] end
end
redis.call('HSET', KEYS[1], 'finished', ARGV[1], 'last_closed', last, 'paused', '1')
redis.call('HDEL', KEYS[1], 'closed', 'restoring', 'restored_at', 'restore_again_at', 'sold_before', 'restore_failures', 'late', 'late_before', 'late_since', 'settle_delay_ms')
local removed = redis.call('ZREMRANGEBYRANK', KEYS[2], 0, ARGV[2] - 1)
return { removed, redis.call('ZCARD', KEYS[2]) }
