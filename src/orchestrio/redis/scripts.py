"""What the server does in one step, as Lua scripts; each says its keys and arguments.

The keys of a topic begin with the same ``{namespace:topic}``, so that a cluster keeps them together.
"""

from __future__ import annotations

from typing import Final

from .connection import Script

__all__ = [
    "ACKNOWLEDGE",
    "ACQUIRE",
    "CLAIM",
    "DEAD_LETTER",
    "JOIN",
    "LEAVE",
    "POSITION",
    "PROLONG",
    "PUBLISH",
    "RECOVER",
    "RENEW",
]

ACQUIRE: Final = Script("""
-- KEYS: lease, counter of the leases; ARGV: who, for how long (ms)
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return redis.call('INCR', KEYS[2])
""")
"""Take a lease if nobody has it; return its fencing token, or 0."""

PROLONG: Final = Script("""
-- KEYS: lease; ARGV: who, for how long (ms); 0 gives it up
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
if ARGV[2] == '0' then
    return redis.call('DEL', KEYS[1])
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")
"""Keep a lease for longer, or give it up; return 0 if it was lost."""

PUBLISH: Final = Script("""
-- KEYS: stream, counter of its entries, what was last taken from this origin
-- ARGV: entries to keep (0: all), how long to remember the origin (ms), then number, body, ...
-- A message whose number was taken before is not taken again: to send twice is safe.
local last = tonumber(redis.call('GET', KEYS[3]) or '0')
local fresh = {}
for i = 3, #ARGV, 2 do
    if tonumber(ARGV[i]) > last then
        last = tonumber(ARGV[i])
        fresh[#fresh + 1] = ARGV[i + 1]
    end
end
if #fresh > 0 then
    local ordinal = redis.call('INCRBY', KEYS[2], #fresh) - #fresh
    for i, body in ipairs(fresh) do
        if ARGV[1] == '0' then
            redis.call('XADD', KEYS[1], '*', 'n', ordinal + i, 'm', body)
        else
            redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'n', ordinal + i, 'm', body)
        end
    end
    redis.call('SET', KEYS[3], string.format('%.0f', last), 'PX', ARGV[2])
end
return #fresh
""")
"""Append messages to a stream, each with its ordinal, and return how many were new."""

POSITION: Final = Script("""
-- KEYS: stream, counter of its entries
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local ordinal = redis.call('GET', KEYS[2]) or '0'
if #last > 0 then
    return {last[1][1], ordinal}
end
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
            return {info[i + 1], ordinal}
        end
    end
end
return {'0-0', ordinal}
""")
"""Return the identifier and the ordinal of the last entry of a stream."""

JOIN: Final = Script("""
-- KEYS: stream; ARGV: group
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then
    return made
end
return 1
""")
"""Make the consumer group of a stream, if it is not there; it begins with what is in the stream."""

ACKNOWLEDGE: Final = Script("""
-- KEYS: stream, errors; ARGV: group, identifiers
local identifiers = {unpack(ARGV, 2)}
redis.call('HDEL', KEYS[2], unpack(identifiers))
return redis.call('XACK', KEYS[1], ARGV[1], unpack(identifiers))
""")
"""Note that entries have been handled."""

CLAIM: Final = Script("""
-- KEYS: stream, errors; ARGV: group, consumer, idle (ms), where to begin, count
-- Returns where to go on, and {identifier, deliveries, fields, error of the delivery before} of
-- each.
local found = redis.call(
    'XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
local claimed = {}
for _, entry in ipairs(found[2]) do
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
    local why = redis.call('HGET', KEYS[2], entry[1])
    claimed[#claimed + 1] = {entry[1], pending[1][4], entry[2], why or ''}
end
return {found[1], claimed}
""")
"""Take over entries whose consumer has not been heard of for some time, one delivery more each."""

RECOVER: Final = Script("""
-- KEYS: stream; ARGV: group, consumer, where to begin, count
-- Returns where to go on ('': nowhere), and {identifier, deliveries, fields} of each; an entry that
-- was trimmed is let go.
local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], '+', ARGV[4], ARGV[2])
local found = {}
for _, pending in ipairs(mine) do
    local entry = redis.call('XRANGE', KEYS[1], pending[1], pending[1])
    if #entry > 0 then
        found[#found + 1] = {pending[1], pending[4], entry[1][2]}
    else
        redis.call('XACK', KEYS[1], ARGV[1], pending[1])
    end
end
return {#mine > 0 and '(' .. mine[#mine][1] or '', found}
""")
"""Return the entries that are this consumer's to handle, as far as the server knows."""

RENEW: Final = Script("""
-- KEYS: stream, errors; ARGV: group, consumer, number of failures, then identifier, error, ...,
-- and the identifiers in hand
local failures = tonumber(ARGV[3])
for i = 4, 2 + 2 * failures, 2 do
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
local kept = 0
for i = 4 + 2 * failures, #ARGV do
    local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
    if #mine > 0 then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
        kept = kept + 1
    end
end
return kept
""")
"""Note why entries could not be handled, and that others are being handled still."""

DEAD_LETTER: Final = Script("""
-- KEYS: stream, dead letters, errors, mark; ARGV: group ('' for none), identifier, then fields
-- The mark keeps several processes from moving the same entry twice.
local first = redis.call('SET', KEYS[4], 1, 'NX', 'PX', 86400000)
if first then
    redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
end
if ARGV[1] ~= '' then
    redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
    redis.call('HDEL', KEYS[3], ARGV[2])
end
return first and 1 or 0
""")
"""Move an entry to the stream of dead letters."""

LEAVE: Final = Script("""
-- KEYS: stream; ARGV: group, consumer, how long others may have been away (ms)
-- Consumers with nothing to handle are forgotten; so is what every group has handled.
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
local function parts(id)
    local ms, number = string.match(id, '(%d+)-(%d+)')
    return tonumber(ms), tonumber(number)
end
local lowest
for _, group in ipairs(groups) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    local id = facts['last-delivered-id']
    if facts['pending'] > 0 then
        id = redis.call('XPENDING', KEYS[1], facts['name'])[2]
    end
    if not lowest then
        lowest = id
    else
        local ms, number = parts(id)
        local low, lownumber = parts(lowest)
        if ms < low or (ms == low and number < lownumber) then lowest = id end
    end
end
if lowest then
    redis.call('XTRIM', KEYS[1], 'MINID', '~', lowest)
end
local consumers = redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if ARGV[4] == 'leave' then
    for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 10000, ARGV[2])) do
        redis.call(
            'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1], 'IDLE', 86400000, 'JUSTID')
    end
end
for _, consumer in ipairs(consumers) do
    local facts = {}
    for i = 1, #consumer, 2 do facts[consumer[i]] = consumer[i + 1] end
    local away = facts['name'] ~= ARGV[2] and facts['idle'] > tonumber(ARGV[3])
    if facts['pending'] == 0 and (away or ARGV[2] == facts['name'] and ARGV[4] == 'leave') then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], facts['name'])
    end
end
return 1
""")
"""Remove consumers that have long been idle, and entries that every group has handled.

ARGV[4] is ``leave`` for a consumer that ends: what it has not handled is anybody's at once.
"""
