-- Keeps what watchers were told, for the next who tells them.
--
-- KEYS  1 watchers:{item}
-- ARGV  pairs of a connection and what is known of it, at most 500
for i = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
