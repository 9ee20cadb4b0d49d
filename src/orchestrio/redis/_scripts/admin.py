"""What the server does in one step for a `TopicAdmin`, as Lua scripts; each says its keys."""

from typing import Final

from .._server.connection import Script
from .lua import FACTS

__all__ = ["DROP_GROUP", "GROUPS", "HEARTBEATS", "LETTERS", "STANDING", "TAKE"]

STANDING: Final = Script(
    FACTS
    + """
-- KEYS: dead letters, stream
-- Returns whether the topic is there, and of the dead letters how many there are, how many there
-- were but for those that were put back or dropped, and the last identifier.
local known = redis.call('EXISTS', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 0 then
    return {known, 0, 0, '0-0'}
end
local facts = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))
return {known, facts['length'], facts['entries-added'], facts['last-generated-id']}
"""
)
"""Return how the dead letters stand."""

LETTERS: Final = Script("""
-- KEYS: dead letters; ARGV: the first, the last, how many, 1 for all of each
-- Returns {identifier, fields} of each; but for ARGV[4] without the message and the error's rest.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
if ARGV[4] == '1' then
    return found
end
local heads = {}
for _, entry in ipairs(found) do
    local fields = {}
    for i = 1, #entry[2], 2 do
        local name, value = entry[2][i], entry[2][i + 1]
        if name ~= 'm' then
            fields[#fields + 1] = name
            fields[#fields + 1] = string.match(string.sub(value, 1, 1000), '[^\\n]*')
        end
    end
    heads[#heads + 1] = {entry[1], fields}
end
return heads
""")
"""Return some dead letters."""

TAKE: Final = Script(
    FACTS
    + """
-- KEYS: dead letters, stream, counter of its entries
-- ARGV: identifier, group that must be there ('': none), then the fields of the entry that it
-- becomes again, if it does; 'n' is given its value here
-- Returns 1, or 0 if it is no dead letter, or -1 if there is no such group.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then
    return 0
end
if ARGV[2] ~= '' then
    local there = false
    if redis.call('EXISTS', KEYS[2]) == 1 then
        for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
            there = there or facts_of(group)['name'] == ARGV[2]
        end
    end
    if not there then
        return -1
    end
end
if #ARGV > 2 then
    local ordinal = redis.call('INCR', KEYS[3])
    for i = 3, #ARGV, 2 do
        if ARGV[i] == 'n' then ARGV[i + 1] = ordinal end
    end
    redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
end
redis.call('XDEL', KEYS[1], ARGV[1])
-- The server counts what was ever added; without those that were taken out by hand, what is there
-- no more is what was trimmed.
local facts = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))
local added = math.max(facts['entries-added'] - 1, facts['length'])
redis.call('XSETID', KEYS[1], facts['last-generated-id'], 'ENTRIESADDED', added)
return 1
"""
)
"""Take a dead letter out, and put it back into the stream if that is what is wanted."""

GROUPS: Final = Script(
    FACTS
    + """
-- KEYS: stream
-- Returns {name, pending, ordinal of the next entry, ordinal of the last one} of each group; ''
-- for an ordinal that is not known, and 0 for the next one if there is none.
if redis.call('EXISTS', KEYS[1]) == 0 then
    return {}
end
local function ordinal(entries)
    for i = 1, #entries[1][2], 2 do
        if entries[1][2][i] == 'n' then return entries[1][2][i + 1] end
    end
    return ''
end
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local last = #newest > 0 and ordinal(newest) or ''
local groups = {}
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = facts_of(group)
    local after = '(' .. facts['last-delivered-id']
    local unread = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 1)
    local following = #unread > 0 and ordinal(unread) or '0'
    groups[#groups + 1] = {facts['name'], facts['pending'], following, last}
end
return groups
"""
)
"""Return how the consumer groups of a stream stand."""

HEARTBEATS: Final = Script("""
-- KEYS: heartbeats of a group; ARGV: for how long (ms) one that is not heard of counts as alive
-- Returns how many are alive, and when (ms) one was last heard of ('': never).
local now = redis.call('TIME')
local since = now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[1]
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {redis.call('ZCOUNT', KEYS[1], string.format('%.0f', since), '+inf'), last[2] or ''}
""")
"""Return how many consumers of a group are alive."""

DROP_GROUP: Final = Script("""
-- KEYS: stream, about, heartbeats of the group, its other keys
-- ARGV: group, for how long (ms) one that is not heard of counts as alive; -1 if it does not matter
-- Returns how many are alive if there are some, 0 if there is no such group, or -1.
if ARGV[2] ~= '-1' then
    local now = redis.call('TIME')
    local since = now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[2]
    local alive = redis.call('ZCOUNT', KEYS[3], string.format('%.0f', since), '+inf')
    if alive > 0 then
        return alive
    end
end
redis.call('HDEL', KEYS[2], 'got:' .. ARGV[1], 'gap:' .. ARGV[1], 'old:' .. ARGV[1])
local gone = redis.call('DEL', unpack(KEYS, 3))
if redis.call('EXISTS', KEYS[1]) == 1 then
    gone = gone + redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
end
return gone > 0 and -1 or 0
""")
"""Remove a consumer group of a stream, and what is known of it, unless it is in use."""
