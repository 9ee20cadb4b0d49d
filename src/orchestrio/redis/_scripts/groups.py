"""What the server does in one step for those that compete, as Lua scripts; each says its keys."""

from __future__ import annotations

from typing import Final

from .._server.connection import Script
from .lua import ALSO_WHEN_FULL, FACTS, LOST, NOW, ORDINAL, SAME, THERE

__all__ = ["CLAIM", "LEAVE", "PENDING", "RECOVER", "RENEW", "SWEEP", "TELL"]

TELL: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, tries, later
-- ARGV: birth, group, consumer, how many were handled, their ids, how many were begun, for each of
-- these its id and how many deliveries that makes, then for each that is to come again: id, in how
-- many ms, 1 if it could not be read, why ('': nothing), and how many deliveries began
-- What is not this consumer's any more does not come again through it.
"""
    + SAME
    + NOW
    + """
local group, consumer = ARGV[2], ARGV[3]
local at = 4
local count = tonumber(ARGV[at])
if count > 0 then
    local ids = {unpack(ARGV, at + 1, at + count)}
    redis.call('XACK', KEYS[1], group, unpack(ids))
    if redis.call('EXISTS', KEYS[3]) == 1 then
        for _, id in ipairs(ids) do
            redis.call('HDEL', KEYS[3], id, id .. '!', id .. '?')
        end
    end
    if redis.call('EXISTS', KEYS[4]) == 1 then
        redis.call('ZREM', KEYS[4], unpack(ids))
    end
end
at = at + count + 1
count = tonumber(ARGV[at])
for i = at + 1, at + 2 * count, 2 do
    if #redis.call('XPENDING', KEYS[1], group, ARGV[i], ARGV[i], 1) > 0 then
        redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
    end
end
local lost = 0
for i = at + 2 * count + 1, #ARGV, 5 do
    local id = ARGV[i]
    if #redis.call('XPENDING', KEYS[1], group, id, id, 1, consumer) == 0 then
        -- it is another's
    elseif #redis.call('XRANGE', KEYS[1], id, id) == 0 then
        lost = lost + redis.call('XACK', KEYS[1], group, id)
        redis.call('HDEL', KEYS[3], id, id .. '!', id .. '?')
    else
        redis.call('XCLAIM', KEYS[1], group, '(later)', 0, id, 'JUSTID')
        redis.call('ZADD', KEYS[4], string.format('%.0f', now + ARGV[i + 1]), id)
        if ARGV[i + 2] == '1' then
            redis.call('HSETNX', KEYS[3], id .. '?', string.format('%.0f', now))
        end
        if ARGV[i + 3] ~= '' then
            redis.call('HSET', KEYS[3], id .. '!', ARGV[i + 3])
        end
        if ARGV[i + 4] == '0' then
            redis.call('HDEL', KEYS[3], id)
        else
            redis.call('HSET', KEYS[3], id, ARGV[i + 4])
        end
    end
end
return lost
"""
)
"""Note what was handled, what handlers have begun, and what is to come again; return how many of
these last are lost.

What is to come again waits with the consumer ``(later)`` until somebody claims it.
"""

RENEW: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, count, alive, later; ARGV: birth, group, consumer, the id of the last entry
-- that it was the first to get, the ordinal of that, and how long others may take to tell what they
-- know of a topic that is gone (ms)
-- Returns the ordinal of the last entry, that of the last one that somebody has got (0 if that is
-- unknown), how many between that and the next are lost and were not told of, how many entries are
-- to come again, how many consumers there are, how many were lost with a topic that is gone, and for
-- how long (ms) nothing had been heard of this one.
"""
    + SAME
    + THERE
    + NOW
    + ORDINAL
    + FACTS
    + LOST
    + """
local away = now - (redis.call('ZSCORE', KEYS[4], ARGV[3]) or now)
redis.call('ZADD', KEYS[4], string.format('%.0f', now), ARGV[3])
local head = tonumber(redis.call('GET', KEYS[3]) or '0')
local got, lost = 0, 0
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = facts_of(group)
    if facts['name'] == ARGV[2] then
        local id = facts['last-delivered-id']
        local mark, gap = 'got:' .. ARGV[2], 'gap:' .. ARGV[2]
        local entries = redis.call('XRANGE', KEYS[1], id, '+', 'COUNT', 2)
        local after = head + 1
        if #entries > 0 and entries[1][1] == id then
            got = ordinal(entries[1])
            table.remove(entries, 1)
        elseif ARGV[4] == id then
            got = tonumber(ARGV[5])
        else
            local noted = redis.call('HGET', KEYS[2], mark)
            if noted and string.sub(noted, 1, #id + 1) == id .. ' ' then
                got = tonumber(string.sub(noted, #id + 2))
            end
        end
        redis.call('HSET', KEYS[2], mark, id .. ' ' .. string.format('%.0f', got))
        if #entries > 0 then
            after = ordinal(entries[1])
        end
        local told = tonumber(redis.call('HGET', KEYS[2], gap) or '0')
        if got > 0 and after > math.max(got + 1, told) then
            lost = after - math.max(got + 1, told)
            redis.call('HSET', KEYS[2], gap, string.format('%.0f', after))
        end
    end
end
local told, gone = lost_by(ARGV[2])
if told and now - told[8] >= tonumber(ARGV[6]) and gone > told[7] then
    gone, told[7] = gone - told[7], gone
    tell_lost(ARGV[2], told)
else
    gone = 0
end
local again, consumers = redis.call('ZCARD', KEYS[5]), redis.call('ZCARD', KEYS[4])
return {head, got, lost, again, consumers, gone, away}
"""
)
"""Say that a consumer is alive, and learn how its topic stands."""

_TAKE: Final = """
-- Claim an entry; return it, or nil, 1 if it was pending and is lost, and whether it is gone.
local function take(id, suspect, ...)
    local entry = redis.call('XRANGE', KEYS[1], id, id)
    if #entry == 0 then
        redis.call('HDEL', KEYS[3], id, id .. '!', id .. '?')
        return nil, redis.call('XACK', KEYS[1], ARGV[2], id), true
    end
    if #redis.call('XCLAIM', KEYS[1], ARGV[2], ARGV[3], 0, id, 'JUSTID', ...) == 0 then
        return nil, 0
    end
    local known = redis.call('HMGET', KEYS[3], id, id .. '!', id .. '?')
    local since = known[3] and now - known[3] or -1
    return {
        id, tonumber(known[1] or '0'), known[2] or '', since, suspect, entry[1][2]}, 0
end
"""

CLAIM: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, tries, later, alive; ARGV: birth, group, consumer, how many, silence (ms; 0:
-- nobody is silent). Of one that was not heard of itself, the server cannot have heard others either.
-- Returns how many were lost, whether there may be more, and of each: id, how many deliveries
-- began, the last error, for how long (ms) it could not be read (-1: it was not tried), 1 if its
-- consumer died, fields.
"""
    + SAME
    + NOW
    + _TAKE
    + """
local room = tonumber(ARGV[4])
local lost, found = 0, {}
local due = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, room)
if #due > 0 then
    redis.call('ZREM', KEYS[4], unpack(due))
end
for _, id in ipairs(due) do
    local entry, gone, absent = take(id, 0, 'FORCE')  -- also if somebody has deleted '(later)'
    found[#found + 1] = entry
    lost = lost + (absent and 1 or gone)
end
local more = #due == room
local since = now - ARGV[5]
if not more and since < tonumber(redis.call('ZSCORE', KEYS[5], ARGV[3]) or '0') then
    local silent = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', string.format('%.0f', since))
    for _, consumer in ipairs(silent) do
        while consumer ~= ARGV[3] and not more do
            local pending = redis.call(
                'XPENDING', KEYS[1], ARGV[2], '-', '+', math.min(room - #found, 100), consumer)
            for _, one in ipairs(pending) do
                local entry, gone = take(one[1], 1)
                found[#found + 1] = entry
                lost = lost + gone
            end
            if #pending == 0 then
                redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[2], consumer)
                redis.call('ZREM', KEYS[5], consumer)
                break
            end
            more = #found >= room
        end
    end
end
return {lost, more and 1 or 0, found}
"""
)
"""Take over what is due again, and what consumers have that have not been heard of for some time."""

PENDING: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, about; ARGV: birth, group, consumer, after which id, how many
"""
    + SAME
    + """
local ids = {}
for _, one in ipairs(
    redis.call('XPENDING', KEYS[1], ARGV[2], ARGV[4], '+', ARGV[5], ARGV[3])) do
    ids[#ids + 1] = one[1]
end
return ids
"""
)
"""Return the ids of entries that are this consumer's to handle, as far as the server knows."""

RECOVER: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, tries; ARGV: birth, group, consumer, then ids
-- Returns how many were lost, and of each that still is this consumer's the same as CLAIM does.
"""
    + SAME
    + NOW
    + _TAKE
    + """
local lost, found = 0, {}
for i = 4, #ARGV do
    if #redis.call('XPENDING', KEYS[1], ARGV[2], ARGV[i], ARGV[i], 1, ARGV[3]) > 0 then
        local entry, gone = take(ARGV[i], 0)
        found[#found + 1] = entry
        lost = lost + gone
    end
end
return {lost, found}
"""
)
"""Return some entries that are this consumer's to handle and did not arrive."""

SWEEP: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, later, alive; ARGV: group, age (ms)
-- Whoever has entries and never said that it is alive gets its time from now on; so do entries that
-- are to come again, and for which that is not noted; and whoever was heard of in the future, since
-- the clock was put back. What every group has handled is removed.
-- Returns how many entries silent consumers have, and the other groups that have left entries of
-- such an age unhandled.
"""
    + THERE
    + NOW
    + FACTS
    + """
local stamp, silent, put_off = string.format('%.0f', now), 0, 0
for _, consumer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. stamp, '+inf')) do
    redis.call('ZADD', KEYS[3], stamp, consumer)
end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local facts = facts_of(consumer)
    if facts['name'] == '(later)' then
        put_off = facts['pending']
        if facts['pending'] > redis.call('ZCARD', KEYS[2]) then
            for _, one in ipairs(
                redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 10000, '(later)')) do
                redis.call('ZADD', KEYS[2], 'NX', stamp, one[1])
            end
        end
    elseif facts['pending'] > 0 then
        redis.call('ZADD', KEYS[3], 'NX', stamp, facts['name'])
        if tonumber(redis.call('ZSCORE', KEYS[3], facts['name'])) < now - 3000 then
            silent = silent + facts['pending']
        end
    end
end
if put_off < redis.call('ZCARD', KEYS[2]) then  -- somebody has deleted that consumer
    for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, 9999)) do
        redis.call('XCLAIM', KEYS[1], ARGV[1], '(later)', 0, id, 'FORCE', 'JUSTID')
    end
end
local function parts(id)
    local ms, number = string.match(id, '(%d+)-(%d+)')
    return tonumber(ms), tonumber(number)
end
local lowest
local function keep(id)
    local ms, number = parts(id)
    local low, lownumber = parts(lowest or id)
    if not lowest or ms < low or (ms == low and number < lownumber) then lowest = id end
end
local idle = {}
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = facts_of(group)
    local id = facts['last-delivered-id']
    local waits = redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', 1)[1]
    waits = waits and waits[1]
    keep(id)
    if facts['pending'] > 0 then  -- of a group that was made anew, those may come after what waits
        waits = redis.call('XPENDING', KEYS[1], facts['name'])[2]
        keep(waits)
    end
    if facts['name'] ~= ARGV[1] and waits and parts(waits) < now - ARGV[2] then
        idle[#idle + 1] = facts['name']
    end
end
if lowest then
    redis.call('XTRIM', KEYS[1], 'MINID', '~', lowest)
end
return {silent, idle}
"""
)
"""Find what nobody looks after, and remove what is done with."""

LEAVE: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, later, alive; ARGV: group, consumer, then the ids that it keeps
"""
    + NOW
    + """
local stamp = string.format('%.0f', now)
local keeps = {}
for i = 3, #ARGV do keeps[ARGV[i]] = true end
local from, lost = '-', 0
while from do
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 1000, ARGV[2])
    from = nil
    for _, one in ipairs(pending) do
        from = '(' .. one[1]
        if keeps[one[1]] then
            -- it is being handled
        elseif #redis.call('XRANGE', KEYS[1], one[1], one[1]) == 0 then
            lost = lost + redis.call('XACK', KEYS[1], ARGV[1], one[1])
        else
            redis.call('XCLAIM', KEYS[1], ARGV[1], '(later)', 0, one[1], 'JUSTID')
            redis.call('ZADD', KEYS[2], stamp, one[1])
        end
    end
end
if #ARGV == 2 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    redis.call('ZREM', KEYS[3], ARGV[2])
end
return lost
"""
)
"""Hand back what a consumer does not keep, to whoever comes first, and forget the consumer.

Returns how many of them are lost.
"""
