"""What changes a session in Redis: scripts, so that each change is one step for whoever reads.

KEYS are those of `SessionKeys`. ARGV begins with the session's quoted id, what the user's keys
begin with, and the limits. Keys of sessions that are forgotten share the hash tag,
hence the node. A key of another type is left as it is, for whoever put it there: -N says which.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final, NamedTuple

__all__ = [
    "CLAIM",
    "HOLD",
    "LET_GO",
    "NOTE_RESULT",
    "PRUNE",
    "PUT_CHECKPOINT",
    "PUT_HEAD",
    "PUT_STATE",
    "SWITCH",
    "Script",
]


class Script(NamedTuple):
    """A script, and the name by which Redis remembers it."""

    text: str
    digest: str

    @classmethod
    def of(cls, *texts: str) -> Script:
        """Make one of parts."""
        text = "\n".join(texts)
        # Redis names scripts so: nothing here is a secret.
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


_COMMON: Final = """
local name, base = ARGV[1], ARGV[2]
local ttl_s, sessions_max = tonumber(ARGV[3]), tonumber(ARGV[4])
local KINDS = {'hash', 'zset', 'zset', 'hash', 'zset'}

local function is(key, kind) return redis.call('TYPE', key).ok == kind end

local function foreign(first, last)
  for number = first, last do
    local found = redis.call('TYPE', KEYS[number]).ok
    if found ~= KINDS[number] and found ~= 'none' then return -number end
  end
  return nil
end

local function number(text)
  return text and #text < 20 and string.match(text, '^%d+$') and tonumber(text)
end

local function field(of) return redis.call('HGET', KEYS[1], of) end

local function is_deleted() return field('state') == 'deleted' end

local function drop(of)
  for kept, kind in pairs({session = 'hash', checkpoint = 'hash', checkpoints = 'zset'}) do
    local key = base .. ':' .. kept .. ':' .. of
    if is(key, kind) then redis.call('DEL', key) end
  end
end

local function forget(of)
  local key = base .. ':session:' .. of
  local place = is(key, 'hash') and redis.call('HGET', key, 'place')
  if place then redis.call('ZREM', KEYS[3], place) end
  drop(of)
  redis.call('ZREM', KEYS[2], of)
end

-- Give the session its place by when it was created, and note when it was written.
local function list(at_ms)
  local place = field('place')
  local created = number(field('state_created')) or number(field('head_created'))
    or number(field('created'))
  if not created then
    created = number(place and string.match(place, '^(%d+):')) or at_ms
  end
  local wanted = string.format('%015.0f', created) .. ':' .. name
  if place ~= wanted then
    if place then redis.call('ZREM', KEYS[3], place) end
    redis.call('HSET', KEYS[1], 'place', wanted)
  end
  redis.call('ZADD', KEYS[3], 0, wanted)
  local written = redis.call('ZSCORE', KEYS[2], name)
  written = written and tonumber(written)
  if not written or written < at_ms then redis.call('ZADD', KEYS[2], at_ms, name) end
  redis.call('EXPIRE', KEYS[1], ttl_s)
  redis.call('EXPIRE', KEYS[2], ttl_s)
  redis.call('EXPIRE', KEYS[3], ttl_s)
  local over = redis.call('ZCARD', KEYS[2]) - sessions_max
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do forget(old) end
  end
end
"""

PUT_CHECKPOINT: Final = Script.of(
    _COMMON,
    """
local bad = foreign(1, 5)
if bad then return bad end
if is_deleted() then return 0 end
local offset, text, turn, request, at_ms = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local entry, blob_ttl_s, blobs_max, entries_max = ARGV[10], ARGV[11], ARGV[12], ARGV[13]
-- A full Redis refuses a script at its first write only, if that one needs memory.
redis.call('ZADD', KEYS[5], offset, entry)
redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -1 - tonumber(entries_max))
redis.call('EXPIRE', KEYS[5], ttl_s)
-- Also where a later one was put before it, as those of a stretch are in any order.
if turn == '1' then redis.call('HSET', KEYS[1], 'created', at_ms) end
local kept = number(field('offset'))
if kept and kept >= tonumber(offset) then
  if turn == '1' then list(tonumber(at_ms)) end
  return 0
end
redis.call('HSET', KEYS[1], 'offset', offset, 'turn', turn, 'request', request, 'updated', at_ms)
redis.call('HSET', KEYS[4], 'offset', offset, 'checkpoint', text)
redis.call('EXPIRE', KEYS[4], blob_ttl_s)
list(tonumber(at_ms))
-- The view that is made anew has heard of newer ones before.
if redis.call('ZREVRANK', KEYS[2], name) >= tonumber(blobs_max) then redis.call('DEL', KEYS[4]) end
for _, old in ipairs(redis.call('ZREVRANGE', KEYS[2], blobs_max, blobs_max)) do
  local key = base .. ':checkpoint:' .. old
  if is(key, 'hash') then redis.call('DEL', key) end
end
return 1
""",
)

PUT_HEAD: Final = Script.of(
    _COMMON,
    """
local bad = foreign(1, 3)
if bad then return bad end
if is_deleted() then return 0 end
local kept = number(field('head_offset'))
if kept and kept >= tonumber(ARGV[5]) then return 0 end
redis.call('HSET', KEYS[1], 'head_offset', ARGV[5], 'head', ARGV[6], 'head_created', ARGV[7])
list(tonumber(ARGV[8]))
return 1
""",
)

PUT_STATE: Final = Script.of(
    _COMMON,
    """
local bad = foreign(1, 3)
if bad then return bad end
local revision, created, state, at_ms = ARGV[5], ARGV[7], ARGV[8], ARGV[9]
local kept, kept_created = number(field('revision')), number(field('state_created'))
if kept and kept_created then
  if kept_created > tonumber(created) then return 0 end
  if kept_created == tonumber(created) and kept >= tonumber(revision) then return 0 end
end
if state == 'deleted' or is_deleted() then forget(name) end
redis.call('HSET', KEYS[1], 'revision', revision, 'state_created', created, 'state', state)
if state == 'deleted' then
  redis.call('EXPIRE', KEYS[1], ttl_s)
else
  redis.call('HSET', KEYS[1], 'whole', ARGV[6])
  list(tonumber(at_ms))
end
return 1
""",
)

NOTE_RESULT: Final = Script.of(
    _COMMON,
    """
local bad = foreign(1, 1)
if bad then return bad end
if is_deleted() then return 0 end
local kept = number(field('status_offset'))
if kept and kept >= tonumber(ARGV[5]) then return 0 end
redis.call('HSET', KEYS[1], 'status_offset', ARGV[5], 'status', ARGV[6], 'ended', ARGV[7])
redis.call('EXPIRE', KEYS[1], ttl_s)
return 1
""",
)

PRUNE: Final = Script.of(
    """
-- KEYS: the user's own two. ARGV: what the user's keys begin with, then quoted ids and places.
for number = 1, 2 do
  if redis.call('TYPE', KEYS[number]).ok ~= 'zset' then return 0 end
end
for number = 2, #ARGV, 2 do
  if redis.call('EXISTS', ARGV[1] .. ':session:' .. ARGV[number]) == 0 then
    redis.call('ZREM', KEYS[1], ARGV[number])
    redis.call('ZREM', KEYS[2], ARGV[number + 1])
  end
end
return 1
"""
)

SWITCH: Final = Script.of(
    """
-- KEYS: what is to stand, then what is to be gone. ARGV: how many the first are, what they begin
-- with now and from now on, and the type of each key.
local moved = tonumber(ARGV[1])
for number = 1, #KEYS do
  local key, kind = KEYS[number], ARGV[3 + number]
  if number > moved then
    if redis.call('TYPE', key).ok == kind then redis.call('UNLINK', key) end
  elseif redis.call('TYPE', key).ok == kind then
    local target = ARGV[3] .. string.sub(key, #ARGV[2] + 1)
    local there = redis.call('TYPE', target).ok
    if there == kind or there == 'none' then
      redis.call('RENAME', key, target)
    else
      redis.call('UNLINK', key)
    end
  end
end
return moved
"""
)

HOLD: Final = Script.of(
    """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
)

LET_GO: Final = Script.of(
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
)

CLAIM: Final = Script.of(
    """
-- KEYS: a mark. ARGV: how long it is kept, then names, what stands there, and what is to stand.
for number = 2, #ARGV, 3 do
  local found = redis.call('HGET', KEYS[1], ARGV[number]) or ''
  if found ~= ARGV[number + 1] then return 0 end
end
for number = 2, #ARGV, 3 do
  if ARGV[number + 1] ~= ARGV[number + 2] then
    redis.call('HSET', KEYS[1], ARGV[number], ARGV[number + 2])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""
)
