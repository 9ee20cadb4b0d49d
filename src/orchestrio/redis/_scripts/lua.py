"""What scripts have in common, in Lua."""

from __future__ import annotations

from typing import Final

__all__ = ["ALSO_WHEN_FULL", "FACTS", "LAST", "LOST", "NOW", "ORDINAL", "SAME", "THERE"]

#: What consumers need runs in a server whose memory is full as well: to drain it is the only way out.
ALSO_WHEN_FULL: Final = "#!lua flags=allow-oom\n"

#: The topic must be the one that was joined: what was read of another is nobody's to handle.
SAME: Final = """
if redis.call('HGET', KEYS[2], 'born') ~= ARGV[1] then
    return redis.error_reply('MISSING the topic was lost in the server')
end
"""

THERE: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then
    return redis.error_reply('MISSING the stream was lost in the server')
end
"""

NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

ORDINAL: Final = """
local function ordinal(entry)
    for i = 1, #entry[2], 2 do
        if entry[2][i] == 'n' then return tonumber(entry[2][i + 1]) or 0 end
    end
    return 0
end
"""

FACTS: Final = """
-- Return what XINFO says of one thing, by name.
local function facts_of(answer)
    local facts = {}
    for i = 1, #answer, 2 do facts[answer[i]] = answer[i + 1] end
    return facts
end
"""

LAST: Final = """
-- Return the last id that the stream gave; needs FACTS.
local function last_given()
    if redis.call('EXISTS', KEYS[1]) == 0 then
        return '0-0'
    end
    return facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id']
end
"""

LOST: Final = """
-- Return what a group has told of a topic that is gone, and how much it has lost with it. That is: the
-- birth, the ordinals of the last entry and of the last that it has got, how many were to come again,
-- how many more since that was asked, how many silent consumers had, how many are counted, and since
-- when this is told.
local function lost_by(group)
    local told = {}
    for word in string.gmatch(redis.call('HGET', KEYS[2], 'old:' .. group) or '', '%S+') do
        told[#told + 1] = tonumber(word)
    end
    if #told == 0 then
        return nil, 0
    end
    return told, math.max(0, told[2] - told[3] + told[4] + told[5] + told[6])
end
-- Keep what is told.
local function tell_lost(group, told)
    for i, number in ipairs(told) do told[i] = string.format('%.0f', number) end
    redis.call('HSET', KEYS[2], 'old:' .. group, table.concat(told, ' '))
end
"""
