-- Counts a buyer's connections and admits the newest.
--
-- KEYS  1 connections_of:{user_token}   2 connects_of:{user_token}
-- ARGV  1 connection   2 the maximum number of connections of a buyer   3 the maximum number of connects in a window
--       4 the window (s)   5 the maximum lifetime of a connection (s)
--
-- Returns 'too_many', or 'in' and the connections to end: the oldest.
local connects = redis.call('INCR', KEYS[2])
if connects == 1 then redis.call('EXPIRE', KEYS[2], ARGV[4]) end
if connects > tonumber(ARGV[3]) then return { 'too_many' } end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%.0f', time[1] * 1000000 + time[2]), ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[5])
local extra = redis.call('ZCARD', KEYS[1]) - ARGV[2]
if extra <= 0 then return { 'in' } end
local oldest = redis.call('ZRANGE', KEYS[1], 0, extra - 1)
redis.call('ZREM', KEYS[1], unpack(oldest))
return { 'in', unpack(oldest) }
