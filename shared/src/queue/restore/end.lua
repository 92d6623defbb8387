-- Ends the restore of an item: the drain serves it again. Or gives the restore up.
--
-- KEYS  1 item:{id}   2 restored:{id}
-- ARGV  1 the token of the restore   2 '1' if it is complete, '0' to give it up
--       3 the time (us) after which the item is restored again; '' for when it is due already, if it is
--       4 the pause (us) after the first failure of a restore of an item that was sold   5 how often such a restore is repeated
--
-- An item that is given up waits for another restore. If it was sold when the restore began (`sold_before`), on the
-- primary that still serves it, it is sold again instead, and is restored again later. `restore_failures` counts the
-- failures; each pause is twice as long as the one before.
--
-- Returns 1; 0 if another restore has taken over or ended it; -1 if another server has become the primary since the
-- beginning. It may lack orders that were put back, so that the restore has to begin again. Of a restore that is given up
-- and whose item is sold again: 2 if it is repeated, 3 if it has failed too often.
local item = redis.call('HMGET', KEYS[1], 'restoring', 'primary', 'sold_before', 'restore_failures')
if item[1] ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
local info = redis.pcall('INFO', 'replication')
local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
local is_complete, is_same = ARGV[2] == '1', item[2] == primary
redis.call('HDEL', KEYS[1], 'sold_before', 'restore_failures')
local was_sold = item[3] == ARGV[1]
if not is_same or not is_complete and not was_sold then
  redis.call('HSET', KEYS[1], 'restoring', 'wanted')
  return is_complete and -1 or 1
end
redis.call('HDEL', KEYS[1], 'restoring', 'restored_at')
local failures, after = (item[4] or 0) + 1, ARGV[3]
if not is_complete then
  if failures > tonumber(ARGV[5]) then return 3 end
  redis.call('HSET', KEYS[1], 'restore_failures', failures)
  after = ARGV[4] * 2 ^ (failures - 1)
end
if after ~= '' then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'restore_again_at', string.format('%.0f', time[1] * 1000000 + time[2] + after))
end
return is_complete and 1 or 2
