-- Takes a buyer out: an order out of the queue at once, a reservation by marking it as
-- given back, for the checkout worker to release it.
--
-- KEYS  1 orders:{id}   2 reservations:{id}
-- ARGV  1 user_token   2 hold ends from here on (us) mean: being sold at once
--       3 what a hold's end is lowered by (us) once its reservation is given back
--
-- Beside a unit that is taken out for the buyer an order is one too many: it goes, and the
-- answer is about the unit.
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
