-- Applies the ledger's decisions to reservations.
--
-- KEYS  1 item:{id}   2 reservations:{id}   3 tasks:{id}
-- ARGV  four for each buyer, at most 500 buyers:
--       user_token
--       the score to replace; empty: any
--       the new score: when the hold ends (us), '+inf' sold, 'released', 'voided', 'excluded'
--       1 if a released unit returns to the stock, 0 if there is none
--
-- A reservation that has changed in the meantime stays as it is. The stock changes only together with a reservation,
-- so that a repetition does nothing. A change is also written to the tasks, for live updates. Returns the number of
-- changed reservations.
--
-- The score of a voided unit is that of a released one and a half, and that of an excluded buyer has a quarter more
-- (exclude.lua): no moment of Redis has a fraction. A sale that was decided before the void, by a process that was slow
-- since, does not undo it.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
-- A clock that was set back must not release a unit before the stamp that it was served for: place.lua compares the two.
local marks = redis.call('HMGET', KEYS[1], 'closed', 'last_closed')
local closed = marks[1] or marks[2]
local released = '-' .. (closed and closed - now > 0 and closed or now)
local changed, back, sold = 0, 0, 0
for i = 1, #ARGV, 4 do
  local buyer, expected, score, returns = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local old = redis.call('ZSCORE', KEYS[2], buyer)
  if score == 'released' then
    score = released
  elseif score == 'voided' then
    score = released .. '.5'
  elseif score == 'excluded' then
    score = released .. '.25'
  end
  local was_voided = old and tonumber(old) < 0 and tonumber(old) % 1 ~= 0
  local as_expected = expected == '' and not (was_voided and score == '+inf')
    or (old and tonumber(old) == tonumber(expected))
  if as_expected and not (old and tonumber(old) == tonumber(score)) then
    local was_taken = old and tonumber(old) >= 0
    local is_taken = tonumber(score) >= 0
    redis.call('ZADD', KEYS[2], score, buyer)
    changed = changed + 1
    if score == '+inf' then sold = sold + 1 elseif old and tonumber(old) == math.huge then sold = sold - 1 end
    if is_taken and not was_taken then
      back = back - 1
    elseif was_taken and not is_taken and returns == '1' then
      back = back + 1
    end
    if score == '+inf' or (was_taken and not is_taken) then
      redis.call('XADD', KEYS[3], '*', 'kind', is_taken and 'sold' or 'released', 'user_token', buyer, 'at', now)
    end
  end
end
if back ~= 0 then redis.call('HINCRBY', KEYS[1], 'stock_left', back) end
if sold ~= 0 then redis.call('HINCRBY', KEYS[1], 'units_sold', sold) end
return changed
