-- Replaces an item by its rebuilt version, in one step.
--
-- KEYS  1 item:{id}   2 reservations:{id}   3 rebuild:{token}:{id}, the new reservations
-- ARGV  1 the newest stamp (us) of the ledger's sales   2 '1' if the queue is to be restored from order logs
--       3 the number of new reservations that the caller wrote
--       then pairs of field and value, stock_total and withheld first; this script computes stock_left. With `finished`,
--       the item stays finished: it has no watermark, and its queue is not restored
--
-- Nothing at or below a stamp that was served may enter the queue again: the watermark becomes that stamp, and never
-- falls. A queue that is restored begins a new life with its own watermark: the item waits for it from this step on, so
-- that no order is refused, and none is served before an older one is back.
--
-- Returns the taken units. Or it changes nothing and returns -1 if the item sells at the moment: a drain could reserve
-- units between the read of the ledger and this step; or -2 if the new reservations are incomplete: their key has expired
-- or was deleted, and the units of those who are missing would be sold again.
local old = redis.call('HMGET', KEYS[1], 'paused', 'leased', 'leased_until', 'closed', 'restoring', 'primary', 'run_id',
  'last_closed')
local is_selling, written = old[1] and old[1] ~= '1', redis.call('ZCARD', KEYS[3])
if is_selling or written ~= tonumber(ARGV[3]) then
  redis.call('UNLINK', KEYS[3])
  return is_selling and -1 or -2
end
redis.call('DEL', KEYS[1], KEYS[2])
if written > 0 then
  redis.call('RENAME', KEYS[3], KEYS[2])
  -- RENAME keeps the time to live.
  redis.call('PERSIST', KEYS[2])
end
local taken = redis.call('ZCOUNT', KEYS[2], 0, '+inf')
local sold = redis.call('ZCOUNT', KEYS[2], '+inf', '+inf')
local closed = old[4] or old[8]
redis.call('HSET', KEYS[1], 'closed', tonumber(closed or 0) > tonumber(ARGV[1]) and closed or ARGV[1],
  'stock_left', string.format('%.0f', ARGV[5] - ARGV[7] - taken), 'units_sold', sold, unpack(ARGV, 4))
if ARGV[2] == '1' or old[5] then redis.call('HSET', KEYS[1], 'restoring', 'wanted', 'closed', '1') end
-- The queue of an item that still existed is as complete as it was, on the same primary.
if old[6] then redis.call('HSET', KEYS[1], 'primary', old[6], 'run_id', old[7] or '') end
local finished = redis.call('HGET', KEYS[1], 'finished')
if finished then
  closed = redis.call('HGET', KEYS[1], 'closed')
  redis.call('HSET', KEYS[1], 'last_closed', tonumber(closed) > tonumber(finished) and closed or finished)
  redis.call('HDEL', KEYS[1], 'closed', 'restoring')
end
-- An item that was sold by a lease (leased_until: by an earlier version) still needs one, even if this region is no
-- longer main.
if old[2] or old[3] then redis.call('HSET', KEYS[1], 'leased', '1') end
return taken
