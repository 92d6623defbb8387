-- Begins to restore the queue of an item from the order logs. Until the end, the drain takes nothing, and no order is
-- refused for its age or because of what an earlier life of the queue has served.
--
-- KEYS  1 item:{id}   2 restored:{id}
-- ARGV  1 the token of this restore   2 the time (us) without a step after which another restore is taken over; '' at once
--       3 what the caller has found: 'waits' for an item that waits or is being restored, 'again' for one that is sold and
--       is due again (`restore_again_at`); '' to begin whatever the item's state is
--
-- A caller finds many items at once and comes to the last of them much later. By then, another caller may have restored
-- the item, and drains sell it: a restore that nothing needs would stop them.
--
-- On another primary than before the watermark starts again: nothing of this life of the queue was drained. The
-- replication id says which server the orders are restored to.
--
-- `sold_before` is the token of a restore that has begun on an item which was sold, on the primary that sold it. If it
-- fails, the item is sold again. A restore that takes it over keeps that. Beside another `restoring` it means nothing.
--
-- Returns 1; 0 while another restore is in progress; -1 if the item was finished: its queue stays empty; -2 if the item is
-- no longer as the caller has found it.
local item = redis.call('HMGET', KEYS[1], 'stock_left', 'restoring', 'restored_at', 'primary', 'run_id',
  'finished', 'restore_again_at', 'sold_before')
if not item[1] then return redis.error_reply('NOITEM the item does not exist') end
if item[6] then return -1 end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local restoring, again_at = item[2], tonumber(item[7])
local is_due = again_at and again_at <= now
-- The call may be a repetition, whose answer was lost.
if restoring ~= ARGV[1] then
  if ARGV[3] == 'waits' and not restoring then return -2 end
  if ARGV[3] == 'again' and (restoring or not is_due) then return -2 end
end
if restoring and restoring ~= 'wanted' and restoring ~= ARGV[1] and ARGV[2] ~= '' and math.abs(now - (item[3] or 0)) < tonumber(ARGV[2]) then
  return 0
end
local info = redis.pcall('INFO', 'replication')
local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
info = redis.pcall('INFO', 'server')
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
local is_same = item[4] == primary and item[5] == run_id
if not is_same then redis.call('HSET', KEYS[1], 'closed', '1') end
redis.call('HSET', KEYS[1], 'restoring', ARGV[1], 'restored_at', string.format('%.0f', now), 'primary', primary, 'run_id', run_id)
if is_same and ARGV[3] ~= '' and (not restoring or restoring == item[8]) then
  redis.call('HSET', KEYS[1], 'sold_before', ARGV[1])
else
  redis.call('HDEL', KEYS[1], 'sold_before', 'restore_failures')
end
-- A later moment stays: orders may come to an old primary until then.
if is_due then redis.call('HDEL', KEYS[1], 'restore_again_at') end
-- The answers that a restore of before has left.
redis.call('DEL', KEYS[2])
return 1
