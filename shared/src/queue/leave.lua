-- Cancels a buyer's order: removes a waiting order from the queue, or marks a reservation as cancelled for the checkout
-- worker, which releases it.
--
-- KEYS  1 orders:{id}   2 reservations:{id}
-- ARGV  1 user_token   2 the hold's end (us) from which on a unit is sold without a hold
--       3 the offset (us) by which the hold's end of a cancelled reservation is lowered
--
-- If the buyer has a unit, a waiting order is redundant: it is removed, and the answer is about the unit.
--
-- Returns 'left', 'cancelling', or the buyer's score in the reservations ('' for none).
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
local left = redis.call('ZREM', KEYS[1], ARGV[1]) == 1
local hold_until, lowered_by = tonumber(score or -1), tonumber(ARGV[3])
if hold_until < 0 then return left and 'left' or score or '' end
if hold_until < lowered_by then return 'cancelling' end
if hold_until < tonumber(ARGV[2]) then
  redis.call('ZADD', KEYS[2], string.format('%.0f', hold_until - lowered_by), ARGV[1])
  return 'cancelling'
end
return score
