-- Ends the idle time of an item, and records when. Called before every change that can give an idle item work.
--
-- KEYS  1 idle:{items}   2 activated:{items}
-- ARGV  1 item_id   2 the time (us) after which a record is deleted
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - ARGV[2]))
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
return 1
