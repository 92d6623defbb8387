-- Excludes buyers of an item: marks them, and takes their orders out of the queue.
--
-- KEYS  1 item:{id}   2 orders:{id}   3 reservations:{id}
-- ARGV  user_tokens, at most 500
--
-- The mark is a score as that of a released unit and a quarter (three quarters if the unit was voided): no moment of Redis
-- has a fraction, so that scripts and status need no other read to know an excluded buyer. A buyer with a unit keeps it,
-- and gets no mark. Returns the number of buyers who are marked now and were not before.
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('NOITEM the item does not exist') end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
-- As in settle.lua.
local stamps = redis.call('HMGET', KEYS[1], 'closed', 'last_closed')
local closed = stamps[1] or stamps[2]
local moment = '-' .. (closed and closed - now > 0 and closed or now)
local scores = redis.call('ZMSCORE', KEYS[3], unpack(ARGV))
local marks = {}
for i, buyer in ipairs(ARGV) do
  local score = scores[i] and tonumber(scores[i])
  if not score or score < 0 and score % 0.5 == 0 then
    marks[#marks + 1] = moment .. (score and score % 1 ~= 0 and '.75' or '.25')
    marks[#marks + 1] = buyer
  end
end
if #marks > 0 then redis.call('ZADD', KEYS[3], unpack(marks)) end
redis.call('ZREM', KEYS[2], unpack(ARGV))
return #marks / 2
