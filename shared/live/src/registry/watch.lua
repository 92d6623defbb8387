-- Subscribes a connection to an item.
--
-- KEYS  1 watchers:{item}   2 watch_changes:{item}   3 unwatched:{item}
-- ARGV  1 connection   2 its subscription's value   3 the keys' minimum time to live (s)
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], string.format('%.0f', time[1] * 1000000 + time[2]), ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
