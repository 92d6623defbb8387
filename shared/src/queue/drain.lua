-- Moves settled orders from the queue into reservations, in (placed_at, user_token) order.
--
-- KEYS  1 item:{id}   2 orders:{id}   3 reservations:{id}   4 tasks:{id}   5 served:{id}
-- ARGV  1 the maximum number of orders to take, at most 500
--       2, 3 the epoch, and the moment (us) until which main may sell; '' without a lease
--       4 the caller's clock (us)   5 '1' if lost orders can be restored from order logs
--
-- `closed` is the watermark: this script raises it and takes nothing above it; place.lua lets nothing in at or below
-- it. It never falls. So the order holds whatever the delay is, and whatever the clocks do. It rises only when an order
-- is taken: until then, a late order overtakes nothing.
--
-- It rises to the delay before now. Now is the earlier of two clocks, Redis's and the caller's: a clock that jumps ahead
-- would otherwise shut orders out until the true time has caught up.
--
-- The delay is twice the greatest age of an order in the last 10 to 20 s, but at least the settle window and at most
-- 10000000 us (MAX_WINDOW; a test compares the two). place.lua writes the greatest age to `late`; every 10 s it moves
-- to `late_before`. An item of an earlier version has no `closed`: its delay stays the window.
--
-- Stock, reservation, task and removal from the queue change together, so that a crash at any point loses nothing.
--
-- This script compares the lease's end with Redis's own clock at the moment of the change. So a caller that was frozen
-- in between sells nothing. From the first lease on, the item carries `leased`, and is not sold without one.
--
-- Of an item that was finished (`finished`), nothing is taken, whatever its stock is. It is paused, too, for drains of a
-- version that does not know the field.
--
-- While the item is being restored (`restoring`), nothing is taken and `closed` does not rise. With order logs, this
-- script finds out that another server has become the primary, before it takes anything from it: the end of the queue
-- may be missing there, so that the item waits to be restored. The replication id changes with each promotion and each
-- start of a primary. It also changes, in the same process, when the first replica attaches, and when there was none for
-- an hour (repl-backlog-ttl). Then nothing is lost, and there is no previous replication id: a promotion leaves one. An
-- item without `primary` was written by a process that knows of no logs: it waits to be restored, too. A drain without
-- logs removes the field, so that place.lua does not wait for a restore that no worker begins.
--
-- Returns an array of integers: taken, reserved, dropped before opening, dropped after closing, dropped as already
-- taken, stock left, waiting, lag (us), the delay (us). The lag is Redis's clock - delay - last stamp taken, so that a
-- caller whose clock is slow shows. If none is taken it is that of the oldest order that waits; -1 if none is due. Then 1 if
-- the item is being restored, otherwise 0; and, if orders were taken, those of excluded buyers that were dropped.
local item = redis.call('HMGET', KEYS[1],
  'stock_left', 'opens_at', 'closes_at', 'hold_seconds', 'settle_window_ms', 'paused', 'epoch', 'leased',
  'leased_until', 'closed', 'late', 'late_before', 'late_since', 'settle_delay_ms', 'restoring', 'primary', 'run_id',
  'finished')
if not item[1] then return redis.error_reply('NOITEM the item does not exist') end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if ARGV[2] ~= '' then
  if item[7] ~= ARGV[2] then return redis.error_reply('EPOCH the item is under another epoch') end
  if now >= tonumber(ARGV[3]) then return redis.error_reply('LEASE the permit to sell has expired') end
  if not item[8] then redis.call('HSET', KEYS[1], 'leased', '1') end
elseif item[8] or item[9] then -- leased_until: an item that an earlier version sold by a lease
  return redis.error_reply('LEASE the item is sold by a lease, and the caller has none')
end
if item[18] then
  return { 0, 0, 0, 0, 0, tonumber(item[1]), redis.call('ZCARD', KEYS[2]), -1, item[5] * 1000, 0 }
end
local restoring = item[15]
if ARGV[5] == '1' and not restoring then
  local info = redis.pcall('INFO', 'replication')
  local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)')
  if primary and item[16] ~= primary then
    local server = redis.pcall('INFO', 'server')
    local run_id = type(server) == 'string' and string.match(server, 'run_id:(%x+)') or ''
    local is_same = item[16] and #run_id == 40 and item[17] == run_id and string.match(info, 'master_replid2:0+%s')
    if is_same then
      redis.call('HSET', KEYS[1], 'primary', primary)
    else
      redis.call('HSET', KEYS[1], 'restoring', 'wanted', 'closed', '1')
      restoring = 'wanted'
    end
  end
elseif item[16] and not restoring then
  redis.call('HDEL', KEYS[1], 'primary', 'run_id')
end
local closed = tonumber(item[10])
local delay = item[5] * 1000
if closed then
  local late, before = tonumber(item[11]) or 0, tonumber(item[12]) or 0
  delay = math.min(math.max(delay, 2 * late, 2 * before), 10000000)
  if late + before > 0 and math.abs(now - (item[13] or 0)) >= 10000000 then
    redis.call('HSET', KEYS[1], 'late_before', string.format('%.0f', late), 'late', '0',
      'late_since', string.format('%.0f', now))
  end
  local delay_ms = string.format('%.0f', math.ceil(delay / 1000))
  if delay_ms ~= (item[14] or item[5]) then redis.call('HSET', KEYS[1], 'settle_delay_ms', delay_ms) end
end

local stock_left = tonumber(item[1])
local waiting = redis.call('ZCARD', KEYS[2])
if restoring or item[6] == '1' or waiting == 0 or stock_left <= 0 then
  return { 0, 0, 0, 0, 0, stock_left, waiting, -1, delay, restoring and 1 or 0 }
end

local opens_at = tonumber(item[2])
local closes_at = tonumber(item[3]) or math.huge
local settled = math.max(closed or 0, math.min(now, ARGV[4] + 100000) - delay)
local hold_seconds = tonumber(item[4])
-- Without a hold the unit is sold when the ledger has it. Until then the hold ends in 127 years (NO_HOLD_MICROS; a test
-- compares the two).
local hold = hold_seconds > 0 and hold_seconds * 1000000 or 4000000000000000
local reserved_at = string.format('%.0f', now)
local hold_until = string.format('%.0f', now + hold)

local orders = redis.call('ZRANGE', KEYS[2], '-inf', string.format('%.0f', settled),
  'BYSCORE', 'LIMIT', 0, ARGV[1], 'WITHSCORES')
if #orders == 0 then
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  return { 0, 0, 0, 0, 0, stock_left, waiting, math.max(now - delay - oldest[2], -1), delay, 0 }
end
if closed and settled > closed then redis.call('HSET', KEYS[1], 'closed', string.format('%.0f', settled)) end

local buyers = {}
for i = 1, #orders, 2 do buyers[#buyers + 1] = orders[i] end
local holds = redis.call('ZMSCORE', KEYS[3], unpack(buyers))

local taken, before_opening, after_closing, already_taken, excluded = 0, 0, 0, 0, 0
local reservations, stamps = {}, {}
for i, buyer in ipairs(buyers) do
  local placed_at = orders[2 * i]
  local stamp = tonumber(placed_at)
  if stamp < opens_at then
    before_opening = before_opening + 1
  elseif stamp >= closes_at then
    after_closing = after_closing + 1
  elseif holds[i] and tonumber(holds[i]) >= 0 then
    already_taken = already_taken + 1
  elseif holds[i] and tonumber(holds[i]) % 0.5 ~= 0 then -- the mark of exclude.lua
    excluded = excluded + 1
  elseif stock_left == 0 then
    break
  else
    stock_left = stock_left - 1
    reservations[#reservations + 1] = hold_until
    reservations[#reservations + 1] = buyer
    stamps[#stamps + 1] = placed_at
    stamps[#stamps + 1] = buyer
    redis.call('XADD', KEYS[4], '*', 'kind', 'reserved', 'user_token', buyer,
      'placed_at', placed_at, 'reserved_at', reserved_at, 'hold_until', hold_until, 'epoch', item[7])
  end
  taken = i
end

local reserved = #reservations / 2
if reserved > 0 then
  redis.call('ZADD', KEYS[3], unpack(reservations))
  -- For withdrawals, which come within minutes.
  redis.call('ZADD', KEYS[5], unpack(stamps))
  redis.call('EXPIRE', KEYS[5], 3600)
  redis.call('HINCRBY', KEYS[1], 'stock_left', -reserved)
end
if taken > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, taken - 1)
end
local lag = taken > 0 and math.max(now - delay - orders[2 * taken], 0) or -1
return { taken, reserved, before_opening, after_closing, already_taken,
  stock_left, waiting - taken, lag, delay, 0, excluded }
