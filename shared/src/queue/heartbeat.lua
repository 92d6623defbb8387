-- Writes main's clock, for readers of replicas: a replica that has this value has every earlier write of main.
--
-- KEYS  1 heartbeat
local time = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', time[1] * 1000000 + time[2]))
return 1
