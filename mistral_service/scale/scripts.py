"""The rate limiter's Lua scripts: atomic, by Redis's clock, each for one account and model.

Four keys belong to an account and model. They share a hash tag, so that a Cluster has them on one
node:

- `known`, a hash: the limits as text, and the end of a pause.
- `log`, a sorted set: `id:units` of each request of the window, by the time of its admission.
- `sums`, a hash: the units of the log, so that a decision need not add them up.
- `line`, a hash: the waiters, `rank:since:units:until` by id.

Times are microseconds of Redis's `TIME`. Clients send ages, never times: a machine's own clock may
be wrong by any amount.
"""

_BEGIN = """
local known, log, sums, line = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local window = tonumber(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local function text(number) return string.format('%.0f', number) end

-- The clock of Redis was set back, or this replica's is behind: an entry with a time in the future
-- counts for one window from now.
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

local total = redis.call('HGET', sums, 'units')
if not total then
  total = units_of(redis.call('ZRANGE', log, 0, -1))
  redis.call('HSET', sums, 'units', total)
end
local used = {tonumber(redis.call('ZCARD', log)), tonumber(total)}
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
local grace, lease = tonumber(ARGV[8]), tonumber(ARGV[9])
local facts = redis.call('HMGET', known, 'requests', 'tokens', 'pause')
local requests, tokens = facts[1] or '', facts[2] or ''
local ahead, mine = {0, 0}, false
local function answer(wait, pause)
  return {text(wait), text(pause), text(ahead[1]), requests, tokens}
end

-- Another process has changed the limits: the client has to compute the bounds again.
if requests ~= ARGV[10] or tokens ~= ARGV[11] then return answer(-1, 0) end
units = math.min(units, bounds[2])
local member = id .. ':' .. text(units)
if redis.call('ZSCORE', log, member) then return answer(0, 0) end  -- a retry after a timeout

if redis.call('HLEN', line) > 0 then
  local waiters = redis.call('HGETALL', line)
  for i = 1, #waiters, 2 do
    local r, s, u, ends = string.match(waiters[i + 1], '^(%d+):(%d+):(%d+):(%d+)$')
    waiters[i + 1] = {tonumber(r), math.min(tonumber(s), now), tonumber(u), tonumber(ends)}
    if waiters[i] == id and waiters[i + 1][1] == rank then
      mine, since = true, math.min(since, waiters[i + 1][2])
    end
  end
  for i = 1, #waiters, 2 do
    local other, waiter = waiters[i], waiters[i + 1]
    local first = waiter[1] < rank or (waiter[1] == rank
      and (waiter[2] < since or (waiter[2] == since and other < id)))
    if waiter[4] <= now or waiter[4] > now + 2 * window then
      redis.call('HDEL', line, other)
    elseif other ~= id and first then
      ahead = {ahead[1] + 1, ahead[2] + math.min(waiter[3], bounds[2])}
    end
  end
end

-- The waiters ahead fill whole windows; the rest waits until enough entries expire.
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
-- A caller behind whole windows comes back after one window: by then more is known.
wait = math.min(wait, window)
local pause = math.max(0, math.min((tonumber(facts[3] or 0) or 0) - now, tonumber(ARGV[12])))
wait = math.max(wait, pause)
-- The waiters ahead fit as well, and come one after the other: a newcomer comes one place after the
-- last of them.
if wait == 0 and ahead[1] > 0 and not mine then wait = tonumber(ARGV[13]) end
if wait > 0 then
  local ends = now + math.min(wait + grace, lease)
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
"""Admit a request, or let it wait.

Arguments: window, id, rank, age (µs since the caller asked first), units, bound of requests, bound
of units, the grace of a waiter that is late, the lease of a waiter without heartbeats, the limits
(requests, tokens) from which the bounds were computed, the longest pause, the µs between two
waiters. Returns the µs to wait (0: admitted; -1: the limits have changed), the part of them that is
a pause, how many requests go first, and the limits.
"""

REFRESH = (
    _BEGIN
    + """
for i = 2, #ARGV, 2 do
  local waiter = redis.call('HGET', line, ARGV[i])
  if waiter then
    local ends = text(now + ARGV[i + 1])
    redis.call('HSET', line, ARGV[i], (string.gsub(waiter, '%d+$', ends)))
  end
end
return used
"""
)
"""Renew waiters, and read how much of the window is used.

Arguments: window, then id and µs of each waiter. Returns requests and units.
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
"""Write requests that the log does not have, or has lost; those that it has are left as they are.

Arguments: window, then `id:units` and age of each.
"""

PUBLISH = """
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
"""Publish limits or a pause.

Arguments: ms until they expire, then names and values; a `pause` is in µs.
"""

HEARTBEAT = """
local t = redis.call('TIME')
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], t[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', t[1] - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {redis.call('ZCARD', KEYS[1]), known and 1 or 0}
"""
"""Record that a process is alive.

Arguments: the process, the seconds for which it counts as alive, ms until the key expires. Returns
how many processes are alive, and whether this one was known.
"""
