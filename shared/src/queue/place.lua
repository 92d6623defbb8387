-- Puts one order into the checkout queue, if it is within its settle window.
--
-- KEYS  1 orders:{id}   2 reservations:{id}
-- ARGV  1 placed_at (us)   2 user_token   3 settle window (us)
--
-- 100000 us is the clocks' tolerance (CLOCK_TOLERANCE_MICROS). It is a constant here to save every order an argument;
-- a test compares the two.
--
-- Returns one integer if the order is queued: its age by main's clock in us. This is the path of every order of a drop,
-- and each call and conversion on it costs time. Every other answer is an array: the buyer's state, a number, the age.
local call, placed_at, buyer = redis.call, ARGV[1], ARGV[2]
local time = call('TIME')
local age = time[1] * 1000000 + time[2] - placed_at

local hold = call('ZSCORE', KEYS[2], buyer)
local is_taken = hold and hold + 0 >= 0
if not is_taken and age - ARGV[3] <= 0 and age >= -100000 and call('ZADD', KEYS[1], 'NX', placed_at, buyer) == 1 then
  return age
end

-- Only a server that takes writes may refuse: on a replica, this write of nothing raises READONLY. No buyer is ''.
call('ZREM', KEYS[1], '')
if is_taken then return { 'taken', hold, age } end
local queued_at = call('ZSCORE', KEYS[1], buyer)
if queued_at then return { 'queued', queued_at, age } end
return { age > 0 and 'too_late' or 'clock_ahead', '', age }
