"""The scripts that decide in Redis, by Redis's clock: one account and model each, all or nothing.

Four keys belong to an account and model, with one hash tag, so that they lie on one node of a
Cluster:

- `known`, a hash: the limits as text, and until when all pause.
- `log`, a sorted set: `id:units` of each request of the window, by the time it was let out.
- `sums`, a hash: the units of the log, so that deciding reads none of it.
- `line`, a hash: who waits, `rank:since:units:until` by id.

Times are microseconds of Redis's `TIME`. Clients say how long ago something was, and never when: a
machine's own clock may be wrong by any amount.
"""

_BEGIN = """
local known, log, sums, line = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local window = tonumber(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local function text(number) return string.format('%.0f', number) end

-- A Redis whose clock was set back, or a replica of a machine whose clock is behind: what lies in
-- the future counts from now on, for one window and not until then.
local newest = redis.call('ZRANGE', log, -1, -1, 'WITHSCORES')
if newest[2] and tonumber(newest[2]) > now then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', log, '(' .. text(now), '+inf')) do
    redis.call('ZADD', log, text(now), id)
  end
end

local function units_of(ids)
  local units = 0
  for _, id in ipairs(ids) do units = units + tonumber(string.match(id, ':(%d+)$')) end
  return units
end

local kept = redis.call('HGET', sums, 'units')
if not kept then
  kept = units_of(redis.call('ZRANGE', log, 0, -1))
  redis.call('HSET', sums, 'units', kept)
end
local used = {tonumber(redis.call('ZCARD', log)), tonumber(kept)}
local old = redis.call('ZRANGEBYSCORE', log, '-inf', text(now - window))
if #old > 0 then
  redis.call('ZREMRANGEBYSCORE', log, '-inf', text(now - window))
  used = {used[1] - #old, used[2] - units_of(old)}
  redis.call('HSET', sums, 'units', text(used[2]))
end
"""

ADMIT = (
    _BEGIN
    + """
local id, rank, since, units = ARGV[2], tonumber(ARGV[3]), now - ARGV[4], tonumber(ARGV[5])
local bounds = {tonumber(ARGV[6]), tonumber(ARGV[7])}
local stays, lease = tonumber(ARGV[8]), tonumber(ARGV[9])
local facts = redis.call('HMGET', known, 'requests', 'tokens', 'pause')
local requests, tokens = facts[1] or '', facts[2] or ''
local ahead, mine = {0, 0}, false
local function answer(wait, pause)
  return {text(wait), text(pause), text(ahead[1]), requests, tokens}
end

-- The bounds were made from limits that others have changed: they are to be made anew.
if requests ~= ARGV[10] or tokens ~= ARGV[11] then return answer(-1, 0) end
units = math.min(units, bounds[2])
local member = id .. ':' .. text(units)
if redis.call('ZSCORE', log, member) then return answer(0, 0) end  -- asked twice, after a timeout

if redis.call('HLEN', line) > 0 then
  local places = redis.call('HGETALL', line)
  for i = 1, #places, 2 do
    local r, s, u, ends = string.match(places[i + 1], '^(%d+):(%d+):(%d+):(%d+)$')
    places[i + 1] = {tonumber(r), math.min(tonumber(s), now), tonumber(u), tonumber(ends)}
    if places[i] == id and places[i + 1][1] == rank then
      mine, since = true, math.min(since, places[i + 1][2])
    end
  end
  for i = 1, #places, 2 do
    local other, place = places[i], places[i + 1]
    local first = place[1] < rank or (place[1] == rank
      and (place[2] < since or (place[2] == since and other < id)))
    if place[4] <= now or place[4] > now + 2 * window then
      redis.call('HDEL', line, other)
    elseif other ~= id and first then
      ahead = {ahead[1] + 1, ahead[2] + math.min(place[3], bounds[2])}
    end
  end
end

-- What the whole line before this one fills takes windows; the rest waits for what must leave.
local over, wait = {0, 0}, 0
for i, wanted in ipairs({1, units}) do
  if wanted > 0 then
    local windows = math.floor((ahead[i] + wanted - 1) / bounds[i])
    over[i] = used[i] + ahead[i] + wanted - (windows + 1) * bounds[i]
    over[i + 2] = windows * window
    if over[i] <= 0 then wait = math.max(wait, windows * window) end
  end
end
local at = 0
while over[1] > 0 or over[2] > 0 do
  local entries = redis.call('ZRANGE', log, at, at + 99, 'WITHSCORES')
  if #entries == 0 then break end
  for i = 1, #entries, 2 do
    local leaves = {1, units_of({entries[i]})}
    for j = 1, 2 do
      if over[j] > 0 then
        over[j] = over[j] - leaves[j]
        if over[j] <= 0 then
          wait = math.max(wait, over[j + 2] + tonumber(entries[i + 1]) + window - now)
        end
      end
    end
  end
  at = at + 100
end
-- A caller that has whole windows of others ahead comes back after one: by then more is known.
wait = math.min(wait, window)
local pause = math.max(0, math.min((tonumber(facts[3] or 0) or 0) - now, tonumber(ARGV[12])))
wait = math.max(wait, pause)
-- Those ahead have room as well, and come one after the other: a newcomer does not overtake them.
if wait == 0 and ahead[1] > 0 and not mine then wait = 1 end
if wait > 0 then
  local ends = now + math.min(wait + stays, lease)
  redis.call('HSET', line, id, table.concat({rank, text(since), text(units), text(ends)}, ':'))
  redis.call('PEXPIRE', line, math.ceil(window / 500))
  return answer(wait, pause)
end
redis.call('HDEL', line, id)
redis.call('ZADD', log, text(now), member)
redis.call('HINCRBY', sums, 'units', text(units))
redis.call('PEXPIRE', log, math.ceil(window / 1000) + 1000)
redis.call('PEXPIRE', sums, math.ceil(window / 1000))
return answer(0, 0)
"""
)
"""Let a request out, or give it a place in line.

Arguments: window, id, rank, age (µs since the caller asked first), units, bound of requests, bound
of units, for how long a place outlasts its moment, for how long it lasts without a sign of life,
the limits (requests, tokens) from which the bounds were made, the longest pause. Returns the µs to
wait (0: let out; -1: the limits are others), those of them that are a pause,
how many requests go first, and the limits.
"""

LOOK = (
    _BEGIN
    + """
for i = 2, #ARGV, 2 do
  local place = redis.call('HGET', line, ARGV[i])
  if place then
    local ends = text(now + ARGV[i + 1])
    redis.call('HSET', line, ARGV[i], (string.gsub(place, '%d+$', ends)))
  end
end
return used
"""
)
"""See how much of the window is used, and say which places are still waited for.

Arguments: window, then id and µs of each place. Returns requests and units.
"""

WRITE = (
    _BEGIN
    + """
for i = 2, #ARGV, 2 do
  local at = now - ARGV[i + 1]
  if at > now - window and redis.call('ZADD', log, 'NX', text(at), ARGV[i]) == 1 then
    redis.call('HINCRBY', sums, 'units', units_of({ARGV[i]}))
  end
end
redis.call('PEXPIRE', log, math.ceil(window / 1000) + 1000)
redis.call('PEXPIRE', sums, math.ceil(window / 1000))
return 0
"""
)
"""Write requests that the log does not have (any more); those that it has are left as they are.

Arguments: window, then `id:units` and age of each.
"""

LEARN = """
local t = redis.call('TIME')
for i = 2, #ARGV, 2 do
  local value = ARGV[i + 1]
  if ARGV[i] == 'pause' then
    local ends = math.max(t[1] * 1000000 + t[2] + value, 0)
    value = string.format('%.0f', ends)
  end
  redis.call('HSET', KEYS[1], ARGV[i], value)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
"""
"""Tell the others.

Arguments: ms until it is forgotten, then names and values; a `pause` is in µs.
"""

ALIVE = """
local t = redis.call('TIME')
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], t[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', t[1] - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {redis.call('ZCARD', KEYS[1]), known and 1 or 0}
"""
"""Give a sign of life.

Arguments: who, the seconds for which one counts, ms until all are forgotten. Returns how many live,
and whether this one was known.
"""
