-- Ends the restore of an item: the drain serves it again. Or gives the restore up: the item waits for another one.
--
-- KEYS  1 item:{id}   2 restored:{id}
-- ARGV  1 the token of the restore   2 '1' if it is complete, '0' to give it up
--       3 the time (us) after which the item is restored again; '' for never
--
-- Returns 1; 0 if another restore has taken over or ended it; -1 if another server has become the primary since the
-- beginning. It may lack orders that were put back, so that the restore has to begin again.
local item = redis.call('HMGET', KEYS[1], 'restoring', 'primary')
if item[1] ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
local info = redis.pcall('INFO', 'replication')
local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
if ARGV[2] ~= '1' or item[2] ~= primary then
  redis.call('HSET', KEYS[1], 'restoring', 'wanted')
  return ARGV[2] == '1' and -1 or 1
end
redis.call('HDEL', KEYS[1], 'restoring', 'restored_at')
if ARGV[3] ~= '' then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'restore_again_at', string.format('%.0f', time[1] * 1000000 + time[2] + ARGV[3]))
end
return 1
