"""`draw`: draws from the seed what goes wrong in one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypeVar

from orchestrio import RegisteredTask, TaskState

from .._time.virtual import Backend
from .scenario import (
    NEWCOMER,
    AtTime,
    Cancel,
    Command,
    CommandName,
    Crash,
    Delay,
    Fault,
    Faults,
    FaultyHook,
    InHook,
    OnState,
    Stray,
)

T = TypeVar("T")

#: At which changes of a task's state commands are given, and how often.
MOMENTS: Final[Mapping[TaskState, float]] = {
    TaskState.INITIALIZING: 4,
    TaskState.READY: 1,
    TaskState.RUNNING: 1,
    TaskState.COMPLETED: 1,
    TaskState.FAILED: 3,
    TaskState.BACKING_OFF: 3,
    TaskState.STOPPING: 3,
    TaskState.STOPPED: 1,
}

COMMANDS: Final[Mapping[CommandName, float]] = {
    "stop": 4,
    "restart": 6,
    "remove": 3,
    "register": 3,
    "shutdown": 2,
    "interrupt": 1,
}


#: Which commands there are for groups as well, and how many of those are for one.
FOR_GROUPS: Final[Sequence[CommandName]] = ("stop", "restart", "remove", "register")
SHARE_OF_GROUPS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Cast:
    """Whom faults may happen to, and commands may be about."""

    #: those of the program
    tasks: Sequence[RegisteredTask]
    #: the groups, each with the names of the tasks in it, and in those within it
    groups: Mapping[str, Sequence[str]]

    def groups_of(self, task: str | None) -> list[str]:
        """Return the groups that a task is in."""
        return [name for name, tasks in self.groups.items() if task in tasks]


def draw(
    cast: Cast, faults: Faults, random: Random, *, limit: float, backend: Backend
) -> tuple[Fault, ...]:
    """Draw the faults of one run.

    :param cast: the tasks and groups of the program
    :param faults: which faults, and how often
    :param random: what decides
    :param limit: how long the program runs at most, in virtual seconds
    :param backend: the event loop; the faults are the same on each, but for what asyncio alone has
    """
    if not cast.tasks:
        return ()
    kinds = {
        "crash": faults.crashes,
        "delay": faults.delays,
        "cancel": faults.cancellations,
        "stray": faults.strays,
        "command": faults.commands,
    }
    if not any(kinds.values()):
        return ()
    drawn: list[Fault] = []
    count = random.randint(0, faults.most)
    while len(drawn) < count:
        fault = _draw_one(pick(random, kinds), cast, faults, random, limit, backend)
        drawn.append(fault)
        if isinstance(fault.what, Command) and random.random() < 0.35:
            drawn.append(_draw_another(fault, fault.what, cast, random))
    return tuple(drawn[:count])


def _draw_one(
    kind: str, cast: Cast, faults: Faults, random: Random, limit: float, backend: Backend
) -> Fault:
    task = random.choice(cast.tasks)
    if kind == "command":
        return Fault(_draw_moment(task, random, limit), _draw_command(task, cast, random))
    if kind == "crash":
        return Fault(_in_hook(task, random), Crash())
    if kind == "delay":
        seconds = random.choice((0.5, random.randint(1, 10), random.uniform(0, faults.longest)))
        return Fault(_in_hook(task, random), Delay(min(seconds, faults.longest)))
    if kind == "stray":
        when = _in_hook(task, random)
        at_work = InHook(task.name, "execute", random.choice((1, 1, 1, 2)), 0)
        is_long = task.kind == "background" and random.random() < 0.8
        if random.random() < 0.3 or backend == "trio":
            # Most other hooks are over before anybody cancels them: they have nothing to clean up.
            return Fault(at_work if is_long else replace(when, checkpoint=0), Stray(clean_up=True))
        return Fault(when, Stray())
    return Fault(_in_hook(task, random), Cancel())


def _draw_command(task: RegisteredTask, cast: Cast, random: Random) -> Command:
    name = pick(random, COMMANDS)
    target: str | None = (task if random.random() < 0.5 else random.choice(cast.tasks)).name
    if random.random() < 0.15:
        target = NEWCOMER.format(1)  # if there is none, the command finds no task
    event = anew = group = None
    if name in FOR_GROUPS and cast.groups and random.random() < SHARE_OF_GROUPS:
        group = random.choice(cast.groups_of(target) or list(cast.groups))
    if name in ("shutdown", "interrupt") or (group is not None and name != "register"):
        target = None
    elif name == "register":
        target = random.choice((None, target))
        event = random.choice((None, random.randrange(10)))
        depended_on = sorted({one for task in cast.tasks for one in task.metadata.depends_on})
        if depended_on and random.random() < 0.5:
            anew = random.choice(depended_on)
            target = random.choice((None, None, target if target != anew else None))
    return Command(name, target, event, _draw_patience(name, random), anew, group)


def _draw_moment(task: RegisteredTask, random: Random, limit: float) -> InHook | OnState | AtTime:
    where = random.random()
    if where < 0.7:
        return OnState(task.name, pick(random, MOMENTS), random.choice((1, 1, 1, 2, 3)))
    if where < 0.9:
        return _in_hook(task, random)
    return AtTime(round(random.uniform(0, min(limit, 30)), 3))


def _draw_another(fault: Fault, command: Command, cast: Cast, random: Random) -> Fault:
    """Draw a command that crosses another one: at the same moment or just after.

    It is about the same task or group, about one in that group, or about one around that task.
    """
    names: dict[CommandName, float] = {**COMMANDS, "register": 0}
    name = pick(random, names)
    target, group = _draw_crossed(command, cast, random)
    if name in ("shutdown", "interrupt") or (target is None and group is None):
        return Fault(fault.when, Command(random.choice(("shutdown", "interrupt"))))
    stopped = command.task or target or random.choice([*cast.groups.get(group or "", ()), None])
    if command.name == "stop" and stopped is not None and random.random() < 0.5:
        patience = random.choice((None, None, 0, 1, 2))
        return Fault(
            OnState(stopped, TaskState.STOPPED, 1),
            Command("restart", target, patience=patience, group=group),
        )
    patience = _draw_patience(name, random)
    return Fault(fault.when, Command(name, target, patience=patience, group=group))


def _draw_crossed(command: Command, cast: Cast, random: Random) -> tuple[str | None, str | None]:
    """Draw a task or a group that another command is about as well."""
    if command.group is not None:
        inside = cast.groups[command.group]
        if inside and random.random() < 0.5:
            return random.choice(inside), None
        return None, command.group
    target = NEWCOMER.format(1) if command.name == "register" else command.task
    around = cast.groups_of(target)
    if around and random.random() < SHARE_OF_GROUPS:
        return None, random.choice(around)
    return target, None


def _draw_patience(name: CommandName, random: Random) -> int | None:
    if name in ("stop", "restart", "remove") and random.random() < 0.25:
        return random.choice((0, 1, 1, 2, 3, 5, 8, 12))
    return None


def _in_hook(task: RegisteredTask, random: Random) -> InHook:
    work: FaultyHook = "handle_event" if task.kind == "event" else "execute"
    hook: FaultyHook = random.choice((work, work, "initialize", "shutdown"))
    call = random.choice((1, 1, 2, 3, 5, 8) if hook == "handle_event" else (1, 1, 1, 2, 3))
    return InHook(task.name, hook, call, random.choice((0, 1, 1, 2, 3, 9)))


def pick(random: Random, weights: Mapping[T, float]) -> T:
    """Return one of the keys, each as often as its weight says."""
    return random.choices(list(weights), list(weights.values()))[0]
