-- Makes an item idle, unless that was decided too long ago or the item may have changed since.
--
-- KEYS  1 idle:{items}   2 activated:{items}
-- ARGV  1 item_id   2 when its activity was read (us)   3 until when it is idle (us)
--       4 the longest time (us) from that read to now
--       5 the longest time (us) from an item's activation to the change that was announced by it
--
-- Returns 1 if the item is idle now.
local time = redis.call('TIME')
local age = time[1] * 1000000 + time[2] - ARGV[2]
if age < 0 or age > tonumber(ARGV[4]) then return 0 end
local activated_at = redis.call('ZSCORE', KEYS[2], ARGV[1])
if activated_at and tonumber(activated_at) >= ARGV[2] - ARGV[5] then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
