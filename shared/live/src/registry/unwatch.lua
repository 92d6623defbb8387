-- Removes the subscriptions of connections to an item.
--
-- KEYS  1 watchers:{item}   2 watch_changes:{item}   3 unwatched:{item}
-- ARGV  1 how long the end of a subscription is kept (s)   2... the connections, at most 500
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for i = 2, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
  redis.call('ZADD', KEYS[3], string.format('%.0f', now), ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now - ARGV[1] * 1000000))
redis.call('EXPIRE', KEYS[3], ARGV[1])
return 1
