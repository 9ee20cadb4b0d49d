"""`draw`: draws from the seed what goes wrong in one run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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


def draw(
    tasks: Sequence[RegisteredTask],
    faults: Faults,
    random: Random,
    *,
    limit: float,
    backend: Backend,
) -> tuple[Fault, ...]:
    """Draw the faults of one run.

    :param tasks: those of the program
    :param faults: which faults, and how often
    :param random: what decides
    :param limit: how long the program runs at most, in virtual seconds
    :param backend: the event loop; the faults are the same on each, but for what asyncio alone has
    """
    if not tasks:
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
        fault = _draw_one(pick(random, kinds), tasks, faults, random, limit, backend)
        drawn.append(fault)
        if isinstance(fault.what, Command) and random.random() < 0.35:
            drawn.append(_draw_another(fault, fault.what, random))
    return tuple(drawn[:count])


def _draw_one(
    kind: str,
    tasks: Sequence[RegisteredTask],
    faults: Faults,
    random: Random,
    limit: float,
    backend: Backend,
) -> Fault:
    task = random.choice(tasks)
    if kind == "command":
        return _draw_command(task, tasks, random, limit)
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


def _draw_another(fault: Fault, command: Command, random: Random) -> Fault:
    """Draw a command that crosses another one: to the same task, at the same moment or just after."""
    names: dict[CommandName, float] = {**COMMANDS, "register": 0}
    name = pick(random, names)
    target = NEWCOMER.format(1) if command.name == "register" else command.task
    if name in ("shutdown", "interrupt") or target is None:
        return Fault(fault.when, Command(random.choice(("shutdown", "interrupt"))))
    if command.name == "stop" and random.random() < 0.5:
        patience = random.choice((None, None, 0, 1, 2))
        return Fault(
            OnState(target, TaskState.STOPPED, 1), Command("restart", target, patience=patience)
        )
    return Fault(fault.when, Command(name, target, patience=_draw_patience(name, random)))


def _draw_patience(name: CommandName, random: Random) -> int | None:
    if name in ("stop", "restart", "remove") and random.random() < 0.25:
        return random.choice((0, 1, 1, 2, 3, 5, 8, 12))
    return None


def _draw_command(
    task: RegisteredTask, tasks: Sequence[RegisteredTask], random: Random, limit: float
) -> Fault:
    name = pick(random, COMMANDS)
    target: str | None = (task if random.random() < 0.5 else random.choice(tasks)).name
    if random.random() < 0.15:
        target = NEWCOMER.format(1)  # if there is none, the command finds no task
    event = anew = None
    if name in ("shutdown", "interrupt"):
        target = None
    elif name == "register":
        target = random.choice((None, target))
        event = random.choice((None, random.randrange(10)))
        depended_on = sorted({one for task in tasks for one in task.metadata.depends_on})
        if depended_on and random.random() < 0.5:
            anew = random.choice(depended_on)
            target = random.choice((None, None, target if target != anew else None))
    patience = _draw_patience(name, random)
    where = random.random()
    when: InHook | OnState | AtTime
    if where < 0.7:
        when = OnState(task.name, pick(random, MOMENTS), random.choice((1, 1, 1, 2, 3)))
    elif where < 0.9:
        when = _in_hook(task, random)
    else:
        when = AtTime(round(random.uniform(0, min(limit, 30)), 3))
    return Fault(when, Command(name, target, event, patience, anew))


def _in_hook(task: RegisteredTask, random: Random) -> InHook:
    work: FaultyHook = "handle_event" if task.kind == "event" else "execute"
    hook: FaultyHook = random.choice((work, work, "initialize", "shutdown"))
    call = random.choice((1, 1, 2, 3, 5, 8) if hook == "handle_event" else (1, 1, 1, 2, 3))
    return InHook(task.name, hook, call, random.choice((0, 1, 1, 2, 3, 9)))


def pick(random: Random, weights: Mapping[T, float]) -> T:
    """Return one of the keys, each as often as its weight says."""
    return random.choices(list(weights), list(weights.values()))[0]
