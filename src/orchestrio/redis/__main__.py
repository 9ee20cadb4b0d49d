"""``python -m orchestrio.redis``: dead letters and groups of a topic, from a shell."""

import argparse
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias

import anyio
from typing_extensions import override

from .._model.errors import InvalidChannelError
from ._admin import TopicAdmin
from ._server.outages import Rejected
from ._server.settings import RedisSettings
from ._wire.dead_letters import BuriedMessage, DeadLetterOutcome

__all__ = ["main"]

_Options: TypeAlias = argparse.Namespace
_Command: TypeAlias = Callable[[TopicAdmin, _Options], Coroutine[Any, Any, bool]]

_EPILOG: Final = """\
URL is redis://user:password@host:port/database, or as a bridge takes it. Others on the machine
can see what is written there, so give one with a password in another way: env:NAME takes it from
the environment variable NAME, and - from the first line of the standard input.

exit status: 0 if it was done; 1 if there was nothing, or it failed; 2 if it was called wrongly
"""

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|"')
_SECRET: Final = re.compile(r"://\S*@")


class _Parser(argparse.ArgumentParser):
    """A parser that does not repeat the password of a URL that is in the wrong place."""

    @override
    def error(self, message: str) -> NoReturn:
        super().error(_SECRET.sub("://***@", message))


# -- commands: each returns whether there was something, and all of it was done -----------------


async def _list(topic: TopicAdmin, options: _Options) -> bool:
    report = await topic.dead_letters(limit=options.limit)
    if options.json:
        _say(_json(asdict(report) | {"letters": [_head(letter) for letter in report.letters]}))
        return report.total > 0
    if report.total:
        rows = [
            (it.id, _time(it.buried_at), str(it.deliveries), it.group or "-", _line(it.error))
            for it in report.letters
        ]
        _table(("ID", "BURIED", "DELIVERIES", "GROUP", "ERROR"), rows)
        _say(f"\n{report.total} dead letters, {len(rows)} shown, newest last; by error:")
        for error, count in report.by_error.items():
            _say(f"{count:8}  {_printable(error)}")
    else:
        _say("no dead letters")
        if not report.topic_exists:
            _complain(f"the server has no topic {options.topic!r} in {options.namespace!r}")
    if report.trimmed:
        _say(f"{report.trimmed} older ones are gone: the server keeps a limited number")
    return report.total > 0


async def _show(topic: TopicAdmin, options: _Options) -> bool:
    letter = await topic.dead_letter(options.id)
    if letter is None:
        _complain(f"{options.id}: there is no such dead letter")
        return False
    message = letter.message or ""
    if options.json:
        try:
            json.loads(message, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            message = json.dumps(letter.message)
        # As it was written: reading it would change numbers.
        _say(_json(_head(letter))[:-1] + f', "message": {message}}}')
        return True
    for name, value in _head(letter).items():
        text = "-" if value is None else str(value)
        _say(f"{name:12}" + "\n            ".join(map(_printable, text.splitlines() or [""])))
    _say("message")
    for line in _indented(message):
        _say(_printable(line))
    return True


async def _requeue(topic: TopicAdmin, options: _Options) -> bool:
    every_group: bool = options.every_group
    if options.all:
        outcome = await topic.requeue_all(every_group=every_group)
    else:
        outcome = await topic.requeue(*options.ids, every_group=every_group)
    return _tell(outcome, "put back", options)


async def _drop(topic: TopicAdmin, options: _Options) -> bool:
    outcome = await (topic.drop_all() if options.all else topic.drop(*options.ids))
    return _tell(outcome, "dropped", options)


async def _list_groups(topic: TopicAdmin, options: _Options) -> bool:
    groups = await topic.groups(alive_within=options.alive_within)
    if options.json:
        _say(_json({"groups": [asdict(group) for group in groups]}))
    elif groups:
        rows = [
            (
                _printable(group.name),
                str(group.alive),
                str(group.pending),
                "?" if group.lag is None else str(group.lag),
                "never" if group.last_heartbeat is None else _time(group.last_heartbeat),
            )
            for group in groups
        ]
        _table(("GROUP", "ALIVE", "PENDING", "LAG", "LAST HEARD OF"), rows)
    else:
        _say("no groups")
    return bool(groups)


async def _drop_group(topic: TopicAdmin, options: _Options) -> bool:
    within: float = options.alive_within
    try:
        found = await topic.drop_group(options.group, force=options.force, alive_within=within)
    except RuntimeError as error:
        _complain(str(error).replace("force it", "add --force"))
        return False
    if options.json:
        _say(_json({"dropped": found}))
    elif found:
        _say(f"group {options.group!r} was dropped")
    if not found:
        _complain(f"there is no group {options.group!r}")
    return found


# -- what is shown ------------------------------------------------------------------------------


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"{_printable(text)}\n")


def _printable(text: str) -> str:
    """Return a line without what a terminal would take for a command."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def _line(text: str) -> str:
    return _printable(text.partition("\n")[0])


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ")


def _head(letter: BuriedMessage) -> dict[str, object]:
    return {
        "id": letter.id,
        "buried_at": _iso(letter.buried_at),
        "deliveries": letter.deliveries,
        "group": letter.group,
        "entry": letter.entry,
        "ordinal": letter.ordinal,
        "error": letter.error,
    }


def _iso(time: object) -> str:
    assert isinstance(time, datetime)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: object) -> str:
    return json.dumps(value, default=_iso)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _say("  ".join(cells).rstrip())


def _indented(text: str) -> Iterable[str]:
    """Return the lines of some JSON, which may be none; its numbers and texts stay as they are."""
    depth, line, opened = 0, "", False
    for token in _TOKEN.findall(text):
        depth += (token in ("{", "[")) - (token in ("}", "]"))
        if opened != (token in ("}", "]")):  # what is empty stays on its line
            yield line
            line = "  " * min(depth, 40)
        opened = token in ("{", "[")
        if token == ",":
            yield line + token
            line = "  " * min(depth, 40)
        else:
            line += ": " if token == ":" else token
    yield line


def _tell(outcome: DeadLetterOutcome, what: str, options: _Options) -> bool:
    if options.json:
        _say(_json(asdict(outcome)))
    else:
        _say(f"{len(outcome.done)} dead letters {what}")
        for id, why in outcome.refused.items():
            _complain(f"{id}: {why}")
    return bool(outcome.done) and not outcome.refused


# -- how it is called ---------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m orchestrio.redis",
        description="Look at the dead letters and the groups of a topic, and put them in order.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    areas = parser.add_subparsers(required=True, metavar="WHAT")
    dead = areas.add_parser("dead", help="messages that could not be handled")
    groups = areas.add_parser("groups", help="those that compete for messages")
    add = partial(_add, dead.add_subparsers(required=True, metavar="COMMAND").add_parser)
    command = add("list", _list, "the last of them, and how many there are with each error")
    command.add_argument("--limit", type=_count, default=20, help="how many to show (default: 20)")
    command = add("show", _show, "one of them, with its message as JSON of CloudEvents")
    command.add_argument("id", metavar="ID", help="its identifier")
    command = add("requeue", _requeue, "put them back, to be delivered again to their group")
    _add_ids(command)
    command.add_argument(
        "--every-group", action="store_true", help="have all groups get them, not theirs alone"
    )
    _add_ids(add("drop", _drop, "delete them for good"))
    add = partial(_add, groups.add_subparsers(required=True, metavar="COMMAND").add_parser)
    _add_within(add("list", _list_groups, "who is alive, and what they have before them"))
    command = add("drop", _drop_group, "forget one, so that its messages need not be kept")
    command.add_argument("group", metavar="GROUP", help="its name")
    command.add_argument("--force", action="store_true", help="even if it is in use")
    _add_within(command)
    return parser


def _add(
    make: Callable[..., argparse.ArgumentParser], name: str, run: _Command, help: str
) -> argparse.ArgumentParser:
    command = make(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, ids=None, all=False)
    command.add_argument("url", metavar="URL", help="the server, or env:NAME, or -; see below")
    command.add_argument("namespace", metavar="NAMESPACE", help="that of the bridges")
    command.add_argument("topic", metavar="TOPIC", help="the name of the topic")
    command.add_argument("--json", action="store_true", help="for programs")
    return command


def _add_ids(command: argparse.ArgumentParser) -> None:
    command.add_argument("ids", metavar="ID", nargs="*", help="identifiers, as list shows them")
    command.add_argument("--all", action="store_true", help="all that are there now")


def _add_within(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--alive-within",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long one that is not heard of counts as alive (default: 60)",
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it is a number from 1 on")
    return number


def _url(given: str) -> str:
    if given == "-":
        return sys.stdin.readline().strip()
    if given.startswith("env:"):
        name = given.removeprefix("env:")
        found = os.environ.get(name)
        if not found:
            raise ValueError(f"there is no environment variable {name!r} with a URL")
        return found
    return given


def _parse(arguments: Sequence[str] | None) -> tuple[TopicAdmin, _Options]:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.ids is not None and not any(it.startswith("-") for it in rest):
        options.ids += rest  # argparse looks for them before the options alone
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.ids is not None and bool(options.ids) == options.all:
        parser.error("which: identifiers of dead letters, or --all?")
    try:
        settings = RedisSettings.from_url(_url(options.url))
        return TopicAdmin(settings, options.topic, namespace=options.namespace), options
    except (InvalidChannelError, ValueError) as error:
        parser.error(str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    :param arguments: the command line; that of the process if not given
    :return: the exit status
    """
    topic, options = _parse(arguments)
    logging.getLogger("coredis").addHandler(logging.NullHandler())  # what fails is told here
    try:
        done = anyio.run(options.run, topic, options)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _complain("interrupted: what is done stays so, and the rest is as it was")
        return 130
    except (OSError, Rejected, ValueError) as error:
        _complain(str(error))
        return 1
    return 0 if done else 1


def _show_what_can_be_shown() -> None:
    """Have signs that a terminal does not know escaped, rather than end with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    _show_what_can_be_shown()
    sys.exit(main())
