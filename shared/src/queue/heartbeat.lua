-- Writes main's clock, for readers of replicas: a replica that has this value has every earlier write of main. With a
-- lease, also writes until when main may sell, for the edges: they take no orders for a main that may not sell.
--
-- KEYS  1 heartbeat   2 {heartbeat}:leased_until
-- ARGV  1 the moment (us) until which the caller may sell; '' without a lease
--
-- The moment is never lowered: another process may have renewed the lease since the caller last did.
-- Returns 1, or 0 if the caller may not sell any more; then nothing is written.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if ARGV[1] ~= '' then
  if now >= tonumber(ARGV[1]) then return 0 end
  local known = redis.call('GET', KEYS[2])
  if not known or tonumber(known) < tonumber(ARGV[1]) then redis.call('SET', KEYS[2], ARGV[1]) end
end
redis.call('SET', KEYS[1], string.format('%.0f', now))
return 1
