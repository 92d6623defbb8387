-- What may give an item work.
--
-- KEYS  1 item:{id}   2 orders:{id}   3 reservations:{id}   4 tasks:{id}
-- ARGV  1 the consumer group of the tasks   2 the hold's end (us) from which on a unit is sold without a hold
--
-- Returns an array of integers: main's clock (us), the units that can still be reserved (0 if the item was finished), opens_at, closes_at (-1 for never), orders waiting,
-- the first end of a hold (-1 for none; a cancelled reservation ended long ago), 1 if a task is unfinished or the item is
-- being restored, now or soon.
local item = redis.call('HMGET', KEYS[1], 'stock_left', 'opens_at', 'closes_at', 'restoring', 'restore_again_at',
  'finished')
if not item[1] then return redis.error_reply('NOITEM the item does not exist') end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local pending, last_taken = 0, '-'
if redis.call('EXISTS', KEYS[4]) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[4])) do
    local fields = {}
    for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
    if fields.name == ARGV[1] then pending, last_taken = fields.pending, '(' .. fields['last-delivered-id'] end
  end
end
local unfinished = pending > 0 or #redis.call('XRANGE', KEYS[4], last_taken, '+', 'COUNT', 1) > 0

local held = redis.call('ZRANGE', KEYS[3], 0, '(' .. ARGV[2], 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')

return { now, item[6] and 0 or tonumber(item[1]), tonumber(item[2]), tonumber(item[3]) or -1,
  redis.call('ZCARD', KEYS[2]), tonumber(held[2]) or -1, (unfinished or item[4] or item[5]) and 1 or 0 }
