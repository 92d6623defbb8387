-- Stores a fetched key set, unless a newer one is stored: two fetches may overlap.
--
-- KEYS  1 token_keys
-- ARGV  1 the set, or '' to store nothing   2 how long ago its fetch began (us)
--
-- Returns the age of the stored set in us; -1 if there is none.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stored_at = tonumber(redis.call('HGET', KEYS[1], 'fetched_at') or '')
if ARGV[1] ~= '' then
  local fetched_at = math.max(0, now - ARGV[2])
  -- After a failover, this clock may be behind the one of the stored set.
  if not stored_at or stored_at <= fetched_at or stored_at > now then
    redis.call('HSET', KEYS[1], 'document', ARGV[1], 'fetched_at', string.format('%.0f', fetched_at))
    stored_at = fetched_at
  end
end
return stored_at and math.max(0, now - stored_at) or -1
