-- The publisher lock: one publisher at a time sends to a region's watchers.
--
-- KEYS  1 publisher
-- ARGV  1 the publisher   2 the lock's time to live (ms); 0 releases it
--
-- Returns 1 if the publisher has the lock.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
