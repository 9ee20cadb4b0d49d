"""What happens to a program in one run: its faults, as plain data."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from orchestrio import TaskState

from .._time.order import Order
from .._time.virtual import Backend

Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FaultyHook: TypeAlias = Literal["initialize", "execute", "handle_event", "shutdown"]
CommandName: TypeAlias = Literal["stop", "restart", "remove", "register", "shutdown", "interrupt"]


class Faults(BaseModel, frozen=True):
    """Which faults a simulation injects, and how often: weights, of which 0 means never."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    most: Annotated[int, Field(strict=True, ge=0)] = 4
    """How many faults a run has at most; any number down to none is as likely."""
    crashes: Weight = 2.0
    """A hook raises: as it begins, when it was cut off at a checkpoint, or as it returns."""
    delays: Weight = 1.0
    """A hook is slow: it waits before it begins, or before it returns."""
    cancellations: Weight = 0.5
    """A hook is cancelled at one of its checkpoints, as by a time-out of its own, and raises."""
    strays: Weight = 1.0
    """A cancellation goes astray. On asyncio a hook raises a ``CancelledError`` that nobody asked
    for, as one does that awaits what somebody else has cancelled. On trio, and sometimes on asyncio
    too, a hook is cancelled as it was asked to be, and a clean-up in it raises: the error comes out
    in one group with the cancellation.
    """
    commands: Weight = 4.0
    """Somebody stops, restarts or removes a task or, less often, a group, registers another task, or
    stops the scheduler, just when a task fails, backs off, starts, stops, or is in one of its hooks.
    """
    longest: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    """How many virtual seconds a delay takes at most."""


@dataclass(frozen=True, slots=True)
class InHook:
    """When a hook of a task is called for the nth time and has come to a checkpoint."""

    task: str
    hook: FaultyHook
    call: int
    checkpoint: int  # 0: as it begins; more than there are: as it returns

    def __str__(self) -> str:
        return f"in call {self.call} of {self.task}.{self.hook}(), checkpoint {self.checkpoint}"


@dataclass(frozen=True, slots=True)
class OnState:
    """When a task has come to a state for the nth time."""

    task: str
    state: TaskState
    nth: int

    def __str__(self) -> str:
        return f"when {self.task} is {self.state.value} for time {self.nth}"


@dataclass(frozen=True, slots=True)
class AtTime:
    """At a time, in virtual seconds."""

    seconds: float

    def __str__(self) -> str:
        return f"at {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Crash:
    """The hook raises `InjectedError`."""

    do: Literal["crash"] = "crash"

    def __str__(self) -> str:
        return "crash"


@dataclass(frozen=True, slots=True)
class Delay:
    """The hook waits, in virtual seconds."""

    seconds: float

    def __str__(self) -> str:
        return f"wait for {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Cancel:
    """What the hook waits for is cancelled, and it raises `InjectedError`."""

    do: Literal["cancel"] = "cancel"

    def __str__(self) -> str:
        return "cancel what it waits for"


@dataclass(frozen=True, slots=True)
class Stray:
    """A cancellation comes out of the hook that nobody asked for, or with an error of a clean-up."""

    do: Literal["stray"] = "stray"
    #: `False`: the hook raises a native cancellation, which asyncio alone has. `True`: when it is
    #: cancelled as it was asked to be, it raises that and an `InjectedError`, in one group
    clean_up: bool = False

    def __str__(self) -> str:
        return "stray cancellation" if not self.clean_up else "clean-up fails when it is cancelled"


@dataclass(frozen=True, slots=True)
class Command:
    """Somebody gives the scheduler a command, and is perhaps cancelled while it is carried out."""

    name: CommandName
    #: the task that is stopped, restarted or removed, or on which a registered one depends
    task: str | None = None
    #: of what kind a registered task is: `None` for one that runs in the background, otherwise the
    #: number of the event that it subscribes to, in the order of the channels
    event: int | None = None
    #: the caller is cancelled after so many checkpoints; `None`: never
    patience: int | None = None
    #: whose name a registered task gets: that one is removed before. `None`: it gets a new one
    anew: str | None = None
    #: the group that is stopped, restarted or removed, or in which a task is registered
    group: str | None = None

    def __str__(self) -> str:
        words: list[str] = [self.name]
        if self.name == "register":
            words.append("an event task" if self.event is not None else "a background task")
            words += [] if self.group is None else [f"in group {self.group!r}"]
            words += [] if self.task is None else ["that depends on", self.task]
            words += [] if self.anew is None else ["in place of", self.anew]
        elif self.group is not None:
            words.append(f"group {self.group!r}")
        elif self.task is not None:
            words.append(self.task)
        if self.patience is not None:
            words.append(f"(cancelled after {self.patience} checkpoints)")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens when; anything but a command is always in a hook."""

    when: InHook | OnState | AtTime
    what: Crash | Delay | Cancel | Stray | Command

    def __str__(self) -> str:
        return f"{self.when}: {self.what}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that decides on a run, but for the program: the same scenario, the same run."""

    seed: int
    """Decides on what `random` returns, and so on what the program makes of that."""
    backend: Backend
    """The event loop."""
    order: Order
    """In which order tasks that are ready step."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong, and when."""
    without: tuple[str, ...] = ()
    """Tasks that are taken out of the program before it starts."""
    variant: int = 0
    """Which of the orders of this seed: with fewer tasks, the first may not show the fault."""

    @property
    def order_seed(self) -> int:
        """What decides on the order of steps alone."""
        return self.seed + 1_000_003 * self.variant

    def __str__(self) -> str:
        faults = "".join(f"\n  {fault}" for fault in self.faults) or " none"
        without = f"\nwithout: {', '.join(self.without)}" if self.without else ""
        variant = f"/{self.variant}" if self.variant else ""
        return (
            f"seed {self.seed}{variant} on {self.backend}, order {self.order};"
            f" faults:{faults}{without}"
        )


#: What the tasks are called that a command registers, by their number.
NEWCOMER: Final = "newcomer-{}"


def tasks_of(fault: Fault) -> set[str]:
    """Return the names of the tasks that a fault is about."""
    names: set[Any] = {getattr(fault.when, "task", None), getattr(fault.what, "task", None)}
    names.add(getattr(fault.what, "anew", None))
    return {name for name in names if name is not None}
