-- Lets an item be restored again later, also one that is being restored now.
--
-- KEYS  1 item:{id}
-- ARGV  1 the time (us) from now
--
-- Returns 1; 0 if the item was finished: its queue stays empty.
local item = redis.call('HMGET', KEYS[1], 'stock_left', 'finished')
if not item[1] then return redis.error_reply('NOITEM the item does not exist') end
if item[2] then return 0 end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'restore_again_at', string.format('%.0f', time[1] * 1000000 + time[2] + ARGV[1]))
return 1
