-- Puts a batch of orders of one item into the checkout queue, as place.lua does one after the other: one TIME, one
-- ZMSCORE and one ZADD for all of them.
--
-- KEYS  1 orders:{id}   2 reservations:{id}   3 item:{id}   4 left:{id}
-- ARGV  1 settle window (us)   2, 3 the oldest and the newest placed_at (us)
--       4, 5 placed_at (us) and user_token of the first order, and so on; at most 200 orders
--
-- One answer differs from place.lua's: an order that was in the queue with this very stamp is queued, and not "queued
-- earlier". A repetition of a batch cannot tell the two apart, and need not.
--
-- And one check is in addition to place.lua's, which each order would pay there: an order that is not newer than the
-- buyer's withdrawal (`left`, written by leave.lua) is 'released'. It is delivered again, or main executes an attempt
-- late whose repetition was queued and then withdrawn.
--
-- Returns main's clock (us) as a text, then for each order that is not simply queued: its position (from 1), the state,
-- a number. The states are those of place.lua.
local call, window = redis.call, ARGV[1] + 0
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local closed = call('HGET', KEYS[3], 'closed')
local is_finished = not closed and call('HGET', KEYS[3], 'finished')
if not closed and call('EXISTS', KEYS[3]) == 0 then return redis.error_reply('NOITEM the item does not exist') end
-- Nothing at or below this stamp may enter.
local limit = now - window - 1
if closed then
  limit = math.max(closed + 0, now - 10000000 - 1)
  -- As in place.lua: an old order that was not overtaken, while the item is being restored or has to be.
  if ARGV[2] - limit <= 0 and limit - closed > 0 then
    local item = call('HMGET', KEYS[3], 'restoring', 'primary')
    local info = item[2] and not item[1] and redis.pcall('INFO', 'replication')
    local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or item[2]
    if item[1] or item[2] ~= primary then limit = closed + 0 end
  end
end
local newest = now + 100000

-- Ages are for the drain's delay, as in place.lua.
local function write_age(age)
  if age + age <= window or not closed then return end
  local late = call('HGET', KEYS[3], 'late')
  if not late or late == '0' or age - late > 50000 then call('HSET', KEYS[3], 'late', string.format('%.0f', age)) end
end

local answer = { string.format('%.0f', now) }
local function say(i, state, figure)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3] = i, state, figure
end

local buyers, count = {}, 0
for i = 5, #ARGV, 2 do
  count = count + 1
  buyers[count] = ARGV[i]
end
-- Until the first order of the item is served, no buyer has a unit; and mostly no buyer has left within half a minute.
local lists = call('EXISTS', KEYS[2], KEYS[4])
local has_left = lists == 2 or lists == 1 and call('EXISTS', KEYS[4]) == 1
local holds = lists > (has_left and 1 or 0) and call('ZMSCORE', KEYS[2], unpack(buyers)) or {}
local left = has_left and call('ZMSCORE', KEYS[4], unpack(buyers)) or {}

if is_finished then
  -- Only a server that takes writes may refuse.
  call('ZREM', KEYS[1], '')
  for i = 1, count do
    local is_taken = holds[i] and holds[i] + 0 >= 0
    say(i, is_taken and 'taken' or 'closed', is_taken and holds[i] or '')
  end
  return answer
end

-- The path of a drop's opening: no order is refused. It makes as few calls and tables as it can.
if ARGV[2] - limit > 0 and now - ARGV[2] <= 10000000 and ARGV[3] - newest <= 0 then
  local taken = false
  for i = 1, lists > 0 and count or 0 do
    local hold = holds[i]
    if hold and (hold + 0 >= 0 or ARGV[2 * i + 2] + hold + 100000 <= 0) or left[i] then taken = true break end
  end
  if not taken then
    write_age(now - ARGV[2])
    if call('ZADD', KEYS[1], 'NX', unpack(ARGV, 4)) < count then
      local scores = call('ZMSCORE', KEYS[1], unpack(buyers))
      for i = 1, count do
        if scores[i] - ARGV[2 * i + 2] ~= 0 then say(i, 'queued', scores[i]) end
      end
    end
    return answer
  end
end

local stamps = {}
for i = 1, count do stamps[i] = ARGV[2 * i + 2] end
-- Whether a unit of the buyer was released after the stamp: as in place.lua.
local function is_released(i) return holds[i] and stamps[i] + holds[i] <= 0 end
local function was_taken(i) return holds[i] and stamps[i] + holds[i] + 100000 <= 0 end
local function is_left(i) return left[i] and stamps[i] - left[i] <= 0 end

local refused, entries, oldest = {}, {}, now
for i = 1, count do
  local hold, stamp = holds[i], stamps[i] + 0
  if hold and hold + 0 >= 0 then
    refused[#refused + 1] = i
  else
    if stamp < oldest and stamp >= now - 10000000 then oldest = stamp end
    local is_over = stamp < now - 10000000 and is_released(i) or was_taken(i) or is_left(i)
    if stamp <= limit or stamp > newest or is_over then
      refused[#refused + 1] = i
    else
      entries[#entries + 1] = stamps[i]
      entries[#entries + 1] = buyers[i]
    end
  end
end

write_age(now - oldest)

local before = #refused > 0 and call('ZMSCORE', KEYS[1], unpack(buyers))
-- Also without an entry a write: only a server that takes writes may refuse.
local added
if #entries > 0 then added = call('ZADD', KEYS[1], 'NX', unpack(entries)) else added = call('ZREM', KEYS[1], '') end
if added * 2 == #entries and not before then return answer end

local scores = call('ZMSCORE', KEYS[1], unpack(buyers))
local entered, next_refused = {}, 1
for i = 1, count do
  local buyer, score = buyers[i], scores[i]
  if refused[next_refused] ~= i then
    entered[buyer] = true
    if score + 0 ~= stamps[i] + 0 then say(i, 'queued', score) end
  else
    next_refused = next_refused + 1
    local stamp = stamps[i] + 0
    if holds[i] and holds[i] + 0 >= 0 then
      say(i, 'taken', holds[i])
    elseif before[i] or entered[buyer] then
      if score + 0 ~= stamp then say(i, 'queued', score) end
    else
      local is_ahead = stamp > limit and stamp > newest and not was_taken(i)
      say(i, is_ahead and 'clock_ahead' or (is_released(i) or is_left(i)) and 'released' or 'too_late', '')
    end
  end
end
return answer
