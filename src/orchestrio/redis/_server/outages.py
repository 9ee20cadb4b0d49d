"""What goes wrong with a server, in two kinds: what passes, and what waiting does not mend.

Of the first kind are `TROUBLE`: whoever asked tries again in a new session. The second kind is
`Rejected`, for the user to see.
"""

import re
import ssl
from collections.abc import Iterator
from typing import Final

from anyio import BrokenResourceError, ClosedResourceError
from coredis.exceptions import (
    ConnectionError as RedisConnectionError,
    InvalidResponse,
    RedisError,
)
from coredis.parser import Parser

__all__ = ["TROUBLE", "Full", "Refused", "Rejected", "code_of", "distrust", "is_answer", "verdict"]


class Refused(Exception):
    """The server is there, and does not take this now: its memory is full, or it is a replica."""


class Full(Refused):
    """Its memory is full: what needs none it takes."""


class Rejected(Exception):
    """The server will not take this, however long one waits."""


TROUBLE: Final = (Refused, OSError, ClosedResourceError, BrokenResourceError)
"""What passes. A connection that breaks and an answer that does not come are an `OSError`."""

#: The codes of errors that pass: the server is restarted, replaced, full or busy; a slot has moved;
#: somebody has deleted a stream or its group, or, as our own scripts say by MISSING, all of a topic.
_PASSING: Final = frozenset(
    {"ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MISSING", "MOVED"}
    | {"NOGROUP", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "UNBLOCKED"}
)

#: How errors that pass begin which have no code of their own.
_PASSING_TEXTS: Final = (
    "max number of clients",
    "no such key",  # of a stream that somebody has deleted
)

#: What to do, by code.
_CURES: Final = {
    "CROSSSLOT": "it is a node of a cluster: name that, as redis+cluster://",
    "NOAUTH": "give it username and password",
    "NOPERM": "give the user this right (ACL SETUSER)",
    "NOPROTO": "the bridge needs Redis 7 or Valkey",
    "WRONGPASS": "check username and password",
    "WRONGTYPE": "another program's key lies there: remove it, or use another namespace",
}

#: The client cuts a code off if it has a class for it.
_CODES: Final = {
    kind: code for code, kind in Parser.EXCEPTION_CLASSES.items() if isinstance(kind, type)
}

#: How it says in a script that a right is missing, and calls that an ERR: Redis 7, and newer ones.
_NO_RIGHT: Final = re.compile(r"The user executing the script |ACL failure in script")
_CODE: Final = re.compile(r"[A-Z]{3,}(?= |$)")
#: What it says at the end of an error in a script.
_SCRIPT: Final = re.compile(r" script: \S*,? ?on @user_script:\d+\.?$")
#: How servers before Redis 7 report what a command in a script has answered.
_IN_SCRIPT: Final = re.compile(r"Error running script .*?-([A-Z]{3,}) ")


def code_of(error: RedisError) -> str:
    """Return the code with which the answer began, such as ``READONLY``, or ``ERR``."""
    code = _CODES.get(type(error))
    if code is not None:
        return code
    text = str(error)
    if _NO_RIGHT.match(text):
        return "NOPERM"
    found = _IN_SCRIPT.match(text)
    if found is not None:
        return found[1]
    found = _CODE.match(text)
    return "ERR" if found is None else found[0]


def is_answer(error: Exception) -> bool:
    """Return whether a server has answered it, and not the client made it of what broke."""
    if type(error) is RedisConnectionError:
        return str(error).startswith(_PASSING_TEXTS)
    return isinstance(error, RedisError) and not isinstance(error, InvalidResponse)


def _told(error: RedisError) -> str:
    """Return an answer as the server has given it, with its code, in one line."""
    code = code_of(error)
    text = (str(error) or type(error).__name__).partition("\n")[0]
    text = _SCRIPT.sub("", text)
    return text if code in text else f"{code} {text}"


def verdict(error: RedisError, who: object, doing: str) -> Refused | Rejected:
    """Return what an error that the server has answered means.

    :param error: as the client has made it
    :param who: the server
    :param doing: what it was asked: the command, and the keys
    """
    code = code_of(error)
    text = _told(error)
    if code in _PASSING or str(error).startswith(_PASSING_TEXTS):
        kind = Full if code == "OOM" else Refused
        return kind(f"{text} ({doing})")
    cure = _CURES.get(code)
    return Rejected(f"{who} refuses {doing}: {text}" + (f": {cure}" if cure else ""))


def distrust(error: BaseException | None) -> str | None:
    """Return why one of both ends does not trust the other's certificate, if that is the error.

    The end of a connection in the middle of the handshake is none: the server may be restarted.
    """
    for each in _with_causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return each.verify_message
        if isinstance(each, ssl.SSLError) and not isinstance(each, ssl.SSLEOFError):
            reason = each.reason or str(each)
            if "EOF" not in reason:
                return reason.replace("_", " ").lower()
    return None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
