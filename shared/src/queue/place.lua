-- Puts one order into the checkout queue, if it is within its settle window.
--
-- KEYS  1 orders:{id}   2 reservations:{id}
-- ARGV  1 placed_at (us)   2 user_token   3 settle window (us)
--
-- 100000 us is the clocks' tolerance (CLOCK_TOLERANCE_MICROS). It is written out
-- here to spare every order an argument; a test holds the two together.
--
-- Returns one integer, the order's age on main's clock in us, when it was queued:
-- this is the path of every order of a drop, and each call and conversion on it
-- costs. Everything else is an array: what is true of the buyer, a figure, the age.
local call, placed_at, buyer = redis.call, ARGV[1], ARGV[2]
local time = call('TIME')
local age = time[1] * 1000000 + time[2] - placed_at

local hold = call('ZSCORE', KEYS[2], buyer)
if hold and hold + 0 >= 0 then return { 'taken', hold, age } end
if age - ARGV[3] <= 0 and age >= -100000 and call('ZADD', KEYS[1], 'NX', placed_at, buyer) == 1 then
  return age
end

local queued_at = call('ZSCORE', KEYS[1], buyer)
if queued_at then return { 'queued', queued_at, age } end
return { age > 0 and 'too_late' or 'clock_ahead', '', age }
