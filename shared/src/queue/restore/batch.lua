-- Puts logged orders back into the queue of an item that is being restored. Their age does not matter.
--
-- KEYS  1 item:{id}   2 orders:{id}   3 reservations:{id}   4 restored:{id}
-- ARGV  1 the token of the restore
--       2 the slot of the call, '' for a call that only shows that the restore goes on
--       3 the number of the call: 1 for the first one in its slot, and greater for each one that follows there
--       4 the number of withdrawals   5, 6 stamp (us) and user_token of the first one, and so on; then the orders, likewise;
--       at most 500 of both
--
-- A withdrawal removes an order that is older. An order replaces a younger one of the buyer: the buyer may have ordered
-- again in the meantime, and must not lose the place. A buyer with a unit gets no other one.
--
-- A call is executed once. A repetition, after a call whose answer was lost, gets the same answer: by the queue alone it
-- could not tell what the call had placed or removed. A call that arrives after its slot went on does nothing.
--
-- Returns the orders that are new in the queue or replaced a younger one, the orders of buyers with a unit, and the
-- orders withdrawn.
local call = redis.call
if call('HGET', KEYS[1], 'restoring') ~= ARGV[1] then
  return redis.error_reply('NOTRESTORING the item is not being restored by this caller')
end
local slot, number = ARGV[2], ARGV[3]
local last = slot ~= '' and call('HGET', KEYS[4], slot)
if last then
  local known, placed, taken, withdrawn = string.match(last, '^(%d+) (%d+) (%d+) (%d+)$')
  if number - known == 0 then return { placed + 0, taken + 0, withdrawn + 0 } end
  if number - known < 0 then return redis.error_reply('OUTDATED a later call in this slot was executed') end
end
local time = call('TIME')
call('HSET', KEYS[1], 'restored_at', string.format('%.0f', time[1] * 1000000 + time[2]))
if slot == '' then return { 0, 0, 0 } end
local first_order = 5 + 2 * ARGV[4]

local removed = {}
if first_order > 5 then
  local buyers = {}
  for i = 6, first_order - 1, 2 do buyers[#buyers + 1] = ARGV[i] end
  local stamps = call('ZMSCORE', KEYS[2], unpack(buyers))
  for n, buyer in ipairs(buyers) do
    if stamps[n] and stamps[n] - ARGV[3 + 2 * n] < 0 then removed[#removed + 1] = buyer end
  end
  if #removed > 0 then call('ZREM', KEYS[2], unpack(removed)) end
end

local placed, taken = 0, 0
if first_order <= #ARGV then
  local entries
  -- Until the first order of the item is served, no buyer has a unit.
  if call('EXISTS', KEYS[3]) == 1 then
    local buyers = {}
    for i = first_order + 1, #ARGV, 2 do buyers[#buyers + 1] = ARGV[i] end
    local holds, free = call('ZMSCORE', KEYS[3], unpack(buyers)), {}
    for n, buyer in ipairs(buyers) do
      if holds[n] and holds[n] + 0 >= 0 then
        taken = taken + 1
      else
        free[#free + 1] = ARGV[first_order + 2 * n - 2]
        free[#free + 1] = buyer
      end
    end
    if taken > 0 then entries = free end
  end
  if not entries then
    placed = call('ZADD', KEYS[2], 'LT', 'CH', unpack(ARGV, first_order))
  elseif #entries > 0 then
    placed = call('ZADD', KEYS[2], 'LT', 'CH', unpack(entries))
  end
end
call('HSET', KEYS[4], slot, string.format('%s %d %d %d', number, placed, taken, #removed))
-- A restore that dies leaves the key. A restore takes 10 min at most.
if not last then call('EXPIRE', KEYS[4], 3600) end
return { placed, taken, #removed }
