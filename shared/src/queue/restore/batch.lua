-- Puts logged orders back into the queue of an item that is being restored. Their age does not matter.
--
-- KEYS  1 item:{id}   2 orders:{id}   3 reservations:{id}
-- ARGV  1 the token of the restore
--       2 the number of withdrawals   3, 4 stamp (us) and user_token of the first one, and so on; then the orders, likewise;
--       at most 500 of both
--
-- A withdrawal removes an order that is older. An order replaces a younger one of the buyer: the buyer may have ordered
-- again in the meantime, and must not lose the place. A buyer with a unit gets no other one.
--
-- Returns the orders that are new in the queue or replaced a younger one, the orders of buyers with a unit, and the
-- orders withdrawn.
if redis.call('HGET', KEYS[1], 'restoring') ~= ARGV[1] then
  return redis.error_reply('NOTRESTORING the item is not being restored by this caller')
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'restored_at', string.format('%.0f', time[1] * 1000000 + time[2]))
local first_order = 3 + 2 * ARGV[2]

local buyers, withdrawn = {}, {}
for i = 3, first_order - 1, 2 do buyers[#buyers + 1] = ARGV[i + 1] end
if #buyers > 0 then
  local stamps = redis.call('ZMSCORE', KEYS[2], unpack(buyers))
  for n, buyer in ipairs(buyers) do
    if stamps[n] and stamps[n] - ARGV[1 + 2 * n] < 0 then withdrawn[#withdrawn + 1] = buyer end
  end
end
if #withdrawn > 0 then redis.call('ZREM', KEYS[2], unpack(withdrawn)) end

buyers = {}
for i = first_order, #ARGV, 2 do buyers[#buyers + 1] = ARGV[i + 1] end
if #buyers == 0 then return { 0, 0, #withdrawn } end
local holds = redis.call('ZMSCORE', KEYS[3], unpack(buyers))
local entries, taken = {}, 0
for n, buyer in ipairs(buyers) do
  if holds[n] and holds[n] + 0 >= 0 then
    taken = taken + 1
  else
    entries[#entries + 1] = ARGV[first_order + 2 * n - 2]
    entries[#entries + 1] = buyer
  end
end
local placed = #entries > 0 and redis.call('ZADD', KEYS[2], 'LT', 'CH', unpack(entries)) or 0
return { placed, taken, #withdrawn }
