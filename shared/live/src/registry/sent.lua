-- Saves the status that was sent to watchers, for the next publisher.
--
-- KEYS  1 watchers:{item}
-- ARGV  pairs of a connection and its subscription's value, at most 500
for i = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
