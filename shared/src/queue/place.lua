-- Puts one order into the checkout queue, unless an order that was served may be younger.
--
-- KEYS  1 orders:{id}   2 reservations:{id}   3 item:{id}
-- ARGV  1 placed_at (us)   2 user_token   3 settle window (us)
--
-- The item's `closed` decides: nothing at or below it may enter. 10000000 us (MAX_WINDOW) is the backstop for a
-- watermark that a failover has lost. An item of an earlier version has no `closed`: its window stays fixed. An item
-- that Redis has lost (NOITEM) decides nothing: its order is neither queued nor refused before the item is back. An item
-- that was finished has no `closed` and queues nothing: so only items without `closed` pay for that read. 100000 us is
-- the clocks' tolerance (CLOCK_TOLERANCE_MICROS). Both are constants to save every order an argument; tests compare
-- them.
--
-- The drain's delay follows the ages that it finds in `late`. Only ages above half of the window are written, and
-- only the first or one that is 50 ms above the written one: an overload pays few writes.
--
-- Returns one integer if the order is queued: its age by main's clock in us. This is the path of every order of a drop,
-- and each call and conversion on it costs time. Every other answer is an array: the buyer's state, a number, the age.
-- 'released' is an order of a buyer whose unit was released after the stamp: the buyer had the unit then. It may be the
-- order that was served: a released unit's score is the negative moment of its release, which is after every stamp that
-- was served. An order that is not late counts if it was made at most 100000 us before the release: clocks differ.
local call, placed_at, buyer = redis.call, ARGV[1], ARGV[2]
local time = call('TIME')
local age = time[1] * 1000000 + time[2] - placed_at

local hold = call('ZSCORE', KEYS[2], buyer)
local closed = call('HGET', KEYS[3], 'closed')
local is_taken = hold and hold + 0 >= 0
local was_taken = hold and placed_at + hold + 100000 <= 0
local is_late
local is_finished = not closed and call('HGET', KEYS[3], 'finished')
if not closed and call('EXISTS', KEYS[3]) == 0 then return redis.error_reply('NOITEM the item does not exist') end
if closed then is_late = placed_at - closed <= 0 or age > 10000000 else is_late = age - ARGV[3] > 0 end
if closed and is_late and placed_at - closed > 0 and not (hold and placed_at + hold <= 0) then
  -- Old, and not overtaken. It is not refused while the item is being restored, nor before the drain has found out that
  -- the item has to be: on another primary than before.
  local item = call('HMGET', KEYS[3], 'restoring', 'primary')
  local info = item[2] and not item[1] and redis.pcall('INFO', 'replication')
  local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or item[2]
  is_late = not item[1] and item[2] == primary
end
local is_queued = not is_taken and not was_taken and not is_late and not is_finished and age >= -100000
  and call('ZADD', KEYS[1], 'NX', placed_at, buyer) == 1

-- Also of an order that is refused: the next ones of its region will be as old.
if age + age - ARGV[3] > 0 and closed and not is_taken and age <= 10000000 then
  local late = call('HGET', KEYS[3], 'late')
  if not late or late == '0' or age - late > 50000 then call('HSET', KEYS[3], 'late', string.format('%.0f', age)) end
end
if is_queued then return age end

-- Only a server that takes writes may refuse: on a replica, this write of nothing raises READONLY. No buyer is ''.
call('ZREM', KEYS[1], '')
if is_taken then return { 'taken', hold, age } end
if is_finished then return { 'closed', '', age } end
local queued_at = call('ZSCORE', KEYS[1], buyer)
if queued_at then return { 'queued', queued_at, age } end
if was_taken or is_late and hold and placed_at + hold <= 0 then return { 'released', '', age } end
return { is_late and 'too_late' or 'clock_ahead', '', age }
