-- Records that a payment for a held reservation was reported before the hold's end, until it is decided.
--
-- KEYS  1 reservations:{id}   2 attempts:{id}
-- ARGV  1 user_token   2 the hold's end (us) from which on a unit is sold without a hold
--       3 the offset (us) by which the hold's end of a cancelled reservation is lowered
--       4 the time (us) for which a record is kept after the hold's end   5 the notice: its outcome and reference
--
-- The record names the end of the hold. If the hold is extended, or its unit is sold or released, it has no meaning any
-- more. So it needs no deletion, and one of an earlier reservation does no harm. Returns 1 if it was recorded.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
local ends = tonumber(score or -1)
if ends < tonumber(ARGV[3]) or ends >= tonumber(ARGV[2]) then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now > ends then return 0 end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - ARGV[4]))
redis.call('ZADD', KEYS[2], score, ARGV[1] .. ' ' .. ARGV[5])
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
redis.call('EXPIREAT', KEYS[2], string.format('%.0f', math.ceil((last + ARGV[4]) / 1000000)))
return 1
