-- Puts one order into the checkout queue, if it is within its settle window.
--
-- KEYS  1 orders:{id}   2 reservations:{id}
-- ARGV  1 placed_at (us)   2 user_token   3 settle window (us)   4 clock tolerance (us)
--
-- Returns one integer, the order's age on main's clock in us, when it was queued:
-- this is the path of every order of a drop, and each call and conversion on it
-- costs. Everything else is an array: what is true of the buyer, a figure, the age.
local call = redis.call
local placed_at, buyer = ARGV[1], ARGV[2]
local time = call('TIME')
local age = time[1] * 1000000 + time[2] - placed_at
local in_window = age <= ARGV[3] + 0 and age >= -ARGV[4]

local hold = call('ZSCORE', KEYS[2], buyer)
local taken = hold and hold + 0 >= 0
if in_window and not taken and call('ZADD', KEYS[1], 'NX', placed_at, buyer) == 1 then
  return age
end

if taken then return { 'taken', hold, age } end
local queued_at = call('ZSCORE', KEYS[1], buyer)
if queued_at then return { 'queued', queued_at, age } end
return { age > 0 and 'too_late' or 'clock_ahead', '', age }
