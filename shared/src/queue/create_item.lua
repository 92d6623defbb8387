-- Writes a new item. An existing item stays as it is.
--
-- KEYS  1 item:{id}
-- ARGV  1 '1' if lost orders can be restored from order logs   then pairs of field and value
--
-- Returns 1 if the item is new, 0 if it existed.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
if ARGV[1] ~= '1' then return 1 end
-- On which primary the queue began: the drain compares. An item without `primary` has no logs.
local info = redis.pcall('INFO', 'replication')
local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)')
info = redis.pcall('INFO', 'server')
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)')
if primary then redis.call('HSET', KEYS[1], 'primary', primary, 'run_id', run_id or '') end
return 1
