-- Writes main's clock where replicas read it: what a replica has, main had at that moment at least.
--
-- KEYS  1 heartbeat
local time = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', time[1] * 1000000 + time[2]))
return 1
