-- Cancels orders of one item: removes each waiting order from the queue, or marks a reservation as cancelled for the
-- checkout worker, which releases it.
--
-- KEYS  1 orders:{id}   2 reservations:{id}   3 left:{id}   4 served:{id}
-- ARGV  1 the hold's end (us) from which on a unit is sold without a hold
--       2 the offset (us) by which the hold's end of a cancelled reservation is lowered
--       3 '1' if a reservation is cancelled although the stamp of its order is not known
--       4, 5, 6 user_token, the newest stamp (us) that is withdrawn, and the stamp (us) of the withdrawal or '', and so
--       on; at most 200 buyers
--
-- If the buyer has a unit, a waiting order is redundant: it is removed, and the answer is about the unit.
--
-- The stamp of a withdrawal is kept in `left`: batch.lua queues no order of the buyer that is not newer. So an attempt
-- to place the withdrawn order that main executes late does not bring it back, and neither does an order log that
-- delivers it again. After 20000000 us, twice the longest window (MAX_WINDOW; a test compares the two), every such
-- order is too late.
--
-- Returns for each buyer 'left', 'cancelling', 'newer' (order or reservation are newer, and stay), 'unknown' (a
-- reservation without a known stamp stays), or the buyer's score in the reservations ('' for none).
local call = redis.call
local no_hold, lowered_by = ARGV[1] + 0, ARGV[2] + 0

local function leave(buyer, newest)
  local queued, score = call('ZSCORE', KEYS[1], buyer), call('ZSCORE', KEYS[2], buyer)
  local hold_until = tonumber(score or -1)
  if queued and (hold_until >= 0 or queued - newest <= 0) then call('ZREM', KEYS[1], buyer) end
  if hold_until < 0 then
    if queued then return queued - newest <= 0 and 'left' or 'newer' end
    return score or ''
  end
  if hold_until < lowered_by then return 'cancelling' end
  if hold_until >= no_hold then return score end
  local stamp = call('ZSCORE', KEYS[4], buyer)
  if stamp and stamp - newest > 0 then return 'newer' end
  if not stamp and ARGV[3] ~= '1' then return 'unknown' end
  call('ZADD', KEYS[2], string.format('%.0f', hold_until - lowered_by), buyer)
  return 'cancelling'
end

local time = call('TIME')
-- Also a write of nothing: only a server that takes writes may answer.
call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', time[1] * 1000000 + time[2] - 20000000))
local answers = {}
for i = 4, #ARGV, 3 do
  answers[#answers + 1] = leave(ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] ~= '' then
    call('ZADD', KEYS[3], 'GT', ARGV[i + 2], ARGV[i])
    call('EXPIRE', KEYS[3], 30)
  end
end
return answers
