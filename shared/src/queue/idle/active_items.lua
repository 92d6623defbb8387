-- The items that need work: all but the idle ones. An item whose idle time has ended is no longer idle.
--
-- KEYS  1 items   2 idle:{items}
-- ARGV  1 an item whose idle time ends within this time (us) is returned, too
--
-- Returns their ids.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
local active = redis.call('ZDIFF', 2, KEYS[1], KEYS[2])
if ARGV[1] ~= '0' then
  local until_soon = string.format('%.0f', now + ARGV[1])
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', until_soon, 'BYSCORE')) do active[#active + 1] = id end
end
return active
