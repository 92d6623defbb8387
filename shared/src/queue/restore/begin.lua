-- Begins to restore the queue of an item from the order logs. Until the end, the drain takes nothing, and no order is
-- refused for its age or because of what an earlier life of the queue has served.
--
-- KEYS  1 item:{id}   2 restored:{id}
-- ARGV  1 the token of this restore   2 the time (us) without a step after which another restore is taken over; '' at once
--
-- On another primary than before the watermark starts again: nothing of this life of the queue was drained. The
-- replication id says which server the orders are restored to.
--
-- Returns 1, or 0 while another restore is in progress, or -1 if the item was finished: its queue stays empty.
local item = redis.call('HMGET', KEYS[1], 'stock_left', 'restoring', 'restored_at', 'primary', 'run_id',
  'finished')
if not item[1] then return redis.error_reply('NOITEM the item does not exist') end
if item[6] then return -1 end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if item[2] and item[2] ~= 'wanted' and item[2] ~= ARGV[1] and ARGV[2] ~= '' and math.abs(now - (item[3] or 0)) < tonumber(ARGV[2]) then
  return 0
end
local info = redis.pcall('INFO', 'replication')
local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
info = redis.pcall('INFO', 'server')
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
if item[4] ~= primary or item[5] ~= run_id then redis.call('HSET', KEYS[1], 'closed', '1') end
redis.call('HSET', KEYS[1], 'restoring', ARGV[1], 'restored_at', string.format('%.0f', now), 'primary', primary, 'run_id', run_id)
redis.call('HDEL', KEYS[1], 'restore_again_at')
-- The answers that a restore of before has left.
redis.call('DEL', KEYS[2])
return 1
