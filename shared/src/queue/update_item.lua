-- Changes an existing item. It never lowers the stock below the units that are reserved or sold.
--
-- KEYS  1 item:{id}
-- ARGV  pairs of field and value: name, stock_total, opens_at, closes_at,
--       hold_seconds, settle_window_ms, paused. `reopened` makes an item that was finished one that opens again: what it was
--       before is never served, because the watermark is above. `closed_at` closes the item at that moment, unless it closes earlier; it may be
--       before the item opens. `is_repair` has the fields written as they are, without a rule.
--
-- Returns 'OK', 'NOITEM', 'TAKEN' and the units reserved or sold, or 'GATES' if the item would close before it opens.
local old = redis.call('HMGET', KEYS[1], 'stock_total', 'stock_left', 'opens_at', 'closes_at', 'closed',
  'settle_window_ms', 'finished', 'last_closed')
if not old[1] then return { 'NOITEM' } end

local new = {}
for i = 1, #ARGV, 2 do new[ARGV[i]] = ARGV[i + 1] end

if new.stock_total then
  local taken = old[1] - old[2]
  if tonumber(new.stock_total) < taken and not new.is_repair then return { 'TAKEN', string.format('%.0f', taken) } end
  new.stock_left = string.format('%.0f', new.stock_total - taken)
end

if new.closed_at then
  local closes_at = tonumber(old[4])
  new.closes_at = closes_at and closes_at < tonumber(new.closed_at) and old[4] or new.closed_at
  new.closed_at = nil
else
  local opens_at = tonumber(new.opens_at or old[3])
  local closes_at = tonumber(new.closes_at or old[4])
  local moves_gates = (new.opens_at or new.closes_at) and not new.is_repair
  if moves_gates and closes_at and closes_at <= opens_at then return { 'GATES' } end
end

-- An item of an earlier version has no watermark, and its window was fixed: everything before it may have been served.
if new.settle_window_ms and not old[5] and not old[7] then
  local time = redis.call('TIME')
  new.closed = string.format('%.0f', time[1] * 1000000 + time[2] - old[6] * 1000)
end

if new.reopened and old[7] then
  -- Written again as a whole: `closed` is its first field, which every order reads.
  local fields = redis.call('HGETALL', KEYS[1])
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'closed', old[8] or old[7], unpack(fields))
  redis.call('HDEL', KEYS[1], 'finished', 'last_closed')
  redis.call('HSET', KEYS[1], 'reopened_after', old[7])
end
new.reopened, new.is_repair = nil, nil

for field, value in pairs(new) do redis.call('HSET', KEYS[1], field, value) end
return { 'OK' }
