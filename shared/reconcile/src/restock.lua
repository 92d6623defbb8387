-- Compares the stock with the reservations, and repairs it.
--
-- KEYS  1 item:{id}   2 reservations:{id}
-- ARGV  1 '1' to repair   2 units that the ledger withholds
--       3 the newest stamp (us) of the ledger's sales, 0 for unknown: a failover can lose the watermark's last steps
--         although the ledger has a sale that they closed
--
-- Returns the units left that the item has, and the right number.
local item = redis.call('HMGET', KEYS[1], 'stock_total', 'stock_left', 'closed', 'restoring')
if not item[1] then return redis.error_reply('NOITEM the item does not exist') end
local left = item[1] - ARGV[2] - redis.call('ZCOUNT', KEYS[2], 0, '+inf')
if ARGV[1] == '1' and left ~= tonumber(item[2]) then
  redis.call('HSET', KEYS[1], 'stock_left', string.format('%.0f', left))
end
if ARGV[1] == '1' then
  -- A queue that is being restored has a new watermark.
  if item[3] and not item[4] and tonumber(ARGV[3]) > tonumber(item[3]) then
    redis.call('HSET', KEYS[1], 'closed', ARGV[3])
  end
  redis.call('HSET', KEYS[1], 'withheld', ARGV[2], 'units_sold', redis.call('ZCOUNT', KEYS[2], '+inf', '+inf'))
end
return { tonumber(item[2]), left }
