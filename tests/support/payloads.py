"""Payloads of all sorts: those that go through JSON as they are, and those that do not."""

from __future__ import annotations

import enum
import ipaddress
import math
import re
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pydantic
from pydantic import (
    AliasChoices,
    AliasPath,
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    HttpUrl,
    Json,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    Tag,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

T = TypeVar("T")
NAN = math.nan
INFINITY = math.inf


# -- aliases -----------------------------------------------------------------------------------


class Item(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    unit_price: int


class Order(BaseModel):
    user_id: int = Field(alias="userId")
    items: list[Item]
    by_name: dict[str, Item] = {}


class Populated(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    user_id: int


class Serialized(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=True)
    user_id: int


class NamedOnly(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)
    user_id: int = Field(alias="userId")


class Apart(BaseModel):
    read: int = Field(validation_alias="in", serialization_alias="out")
    both: int = Field(alias="two")


class ApartWithDefaults(BaseModel):
    """What it writes it reads as nothing, without a complaint."""

    read: int = Field(default=0, validation_alias="in", serialization_alias="out")
    nested: list[Apart] = []


class Crossed(BaseModel):
    """What it writes it reads as something else."""

    a: int = Field(serialization_alias="b")
    b: int = Field(serialization_alias="a")


class Swapped(BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Chosen(BaseModel):
    choice: int = Field(validation_alias=AliasChoices("one", "other"))
    path: int = Field(validation_alias=AliasPath("in", 0, "deep"))
    either: int = Field(
        validation_alias=AliasChoices("x", AliasPath("y", "z")), serialization_alias="w"
    )


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)
    user_id: int
    day: date


class Aliased(TypedDict):
    user_id: Annotated[int, Field(alias="userId")]
    other: Annotated[int, Field(validation_alias="in", serialization_alias="out")]


@pydantic.dataclasses.dataclass
class AliasedData:
    user_id: int = Field(alias="userId")
    other: int = Field(validation_alias="in", serialization_alias="out")


class Renamed(BaseModel):
    """Has a validator that knows its alias alone."""

    user_id: int = Field(alias="userId")

    @model_validator(mode="before")
    @classmethod
    def with_alias(cls, data: Any) -> Any:
        if isinstance(data, dict) and "userId" not in data:
            raise ValueError("no userId")
        return data


# -- shapes ------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Pair(NamedTuple):
    x: int
    y: str


@dataclass
class Point:
    x: float
    tags: list[str] = field(default_factory=list)


@dataclass
class Point3(Point):
    z: float = 0.0


@dataclass(eq=False)
class Bare:
    """Is equal to nothing but itself."""

    x: float


class Box(BaseModel, Generic[T]):
    content: T


class Page(RootModel[list[Item]]):
    pass


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Puppy(Dog):
    age: int = 0


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
Tagged = Annotated[
    Annotated[int, Tag("int")] | Annotated[list[int], Tag("list")],
    Discriminator(lambda value: type(value).__name__),
]


class Tree(BaseModel):
    children: list[Tree] = []
    pet: Pet | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field  # type: ignore[prop-decorator]  # mypy does not know it
    @property
    def area(self) -> int:
        return self.width**2


class Parsed(BaseModel):
    inner: Json[list[int]]


class Caching(BaseModel):
    x: int
    _cache: dict[str, int] = PrivateAttr(default_factory=dict)


class Constants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    x: float


class Strings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    x: float
    y: list[float] = []


class Raw(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    x: bytes


class HalfRaw(BaseModel):
    """Writes Base64, and reads it as text."""

    model_config = ConfigDict(ser_json_bytes="base64")
    x: bytes


class Times(BaseModel):
    model_config = ConfigDict(ser_json_timedelta="float")
    x: timedelta


class Float(BaseModel):
    x: float | None


class Positive(BaseModel):
    x: int = Field(gt=0)


class Login(BaseModel):
    user: str
    password: SecretStr


class Revealed(BaseModel):
    password: SecretStr

    @field_serializer("password")
    def reveal(self, password: SecretStr) -> str:
        return password.get_secret_value()


class Excluding(BaseModel):
    x: int
    secret: str = Field(exclude=True)


class Entity(BaseModel):
    """Equal to what has its identifier, whatever else that holds."""

    id: int
    secret: SecretStr = SecretStr("")
    size: float | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entity) and other.id == self.id


@dataclass
class Record:
    id: int
    secret: SecretStr = field(default=SecretStr(""), compare=False)


@dataclass
class Place:
    id: int
    size: float | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and other.id == self.id


class Labelled(BaseModel):
    """Its field is called as a part of a schema is in which no class is looked for."""

    metadata: Entity


class Preset(BaseModel):
    """So is that of this one."""

    default: list[Entity]


class ExcludingDefault(BaseModel):
    x: int
    cache: str = Field(default="none", exclude=True)


class Rounding(BaseModel):
    x: float

    @field_serializer("x")
    def round_off(self, x: float) -> float:
        return round(x, 1)


class Hashing(BaseModel):
    x: str

    @field_validator("x")
    @classmethod
    def hashed(cls, x: str) -> str:
        return f"hash of {x}"


class OneWay(BaseModel):
    x: int

    @model_serializer
    def as_text(self) -> str:
        return f"x={self.x}"


class Summary(BaseModel):
    pets: list[SerializeAsAny[Dog]]


def _explode(value: object) -> object:
    raise KeyError("a validator that raises what it likes")


Exploding = Annotated[int, BeforeValidator(_explode)]


class Fraction:
    """A class of somebody else, equal to nothing but itself."""

    def __init__(self, over: int, under: int) -> None:
        self.over = over
        self.under = under


def _parse(text: object) -> Fraction:
    over, _, under = str(text).partition("/")
    return Fraction(int(over), int(under or 1))


Shown = Annotated[
    Fraction,
    pydantic.PlainValidator(_parse),
    PlainSerializer(lambda fraction: f"{fraction.over}/{fraction.under}", return_type=str),
]
Halved = Annotated[
    Fraction,
    pydantic.PlainValidator(_parse),
    PlainSerializer(lambda fraction: f"{fraction.over}", return_type=str),
]


def cached(x: int) -> Caching:
    model = Caching(x=x)
    model._cache["y"] = 1
    return model


def construct(kind: type[BaseModel], **values: Any) -> BaseModel:
    return kind.model_construct(**values)


PARIS = ZoneInfo("Europe/Paris")
TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=PARIS, fold=1)  # in the hour that comes twice


#: What arrives as it was sent: a name, the type, the message.
ARRIVES: list[tuple[str, Any, object]] = [
    ("entity", OrderedDict[str, list[Entity]], OrderedDict(a=[Entity(id=1, size=2.5)])),
    ("entity of its own sort", Place, Place(1, 2.5)),
    ("alias", Order, Order.model_validate({"userId": 7, "items": [{"unitPrice": 5}]})),
    (
        "nested aliases",
        Order,
        Order.model_validate({"userId": 7, "items": [], "by_name": {"a": {"unitPrice": 5}}}),
    ),
    ("alias in a list", list[Order], [Order.model_validate({"userId": 7, "items": []})]),
    ("populate_by_name", Populated, Populated(user_id=1)),
    ("serialize_by_alias", Serialized, Serialized.model_validate({"userId": 1})),
    ("validate_by_name", NamedOnly, NamedOnly.model_validate({"user_id": 1})),
    ("two aliases", Apart, Apart.model_validate({"in": 1, "two": 2})),
    (
        "two aliases and defaults",
        ApartWithDefaults,
        ApartWithDefaults.model_validate({"in": 1, "nested": [{"in": 1, "two": 2}]}),
    ),
    ("crossed", Crossed, Crossed(a=1, b=2)),
    ("swapped", Swapped, Swapped.model_validate({"a": 1, "b": 2})),
    (
        "choices and paths",
        Chosen,
        Chosen.model_validate({"other": 1, "in": [{"deep": 2}], "y": {"z": 3}}),
    ),
    ("strict", Strict, Strict.model_validate({"userId": 1, "day": date(2026, 1, 1)})),
    ("typed dict", Aliased, {"user_id": 1, "other": 2}),
    ("dataclass with aliases", AliasedData, AliasedData(**{"userId": 1, "in": 2})),
    ("validator for an alias", Renamed, Renamed.model_validate({"userId": 1})),
    ("text", str, "a\0b \U0001f600 \N{LATIN SMALL LETTER E WITH ACUTE} \u2028"),
    ("enum", Colour, Colour.RED),
    ("int enum", Level, Level.HIGH),
    ("flags", Flags, Flags.A),
    ("literal", Literal["on", "off"], "on"),
    ("none", None, None),
    ("named tuple", Pair, Pair(1, "y")),
    ("tuple", tuple[int, str], (1, "y")),
    ("set", set[int], {1, 2}),
    ("frozen set of enums", frozenset[Colour], frozenset({Colour.RED})),
    ("deque", deque[int], deque([1, 2])),
    ("keys that are numbers", dict[int, str], {1: "a"}),
    ("keys that are tuples", dict[date, int], {date(2026, 1, 1): 1}),
    ("ordered", OrderedDict[str, int], OrderedDict(a=1)),
    ("large int", int, 2**200),
    ("float", list[float], [0.1, 1e300, -0.0, 5e-324]),
    ("decimal", Decimal, Decimal("1.10")),
    ("bytes", bytes, "é".encode()),
    ("bytes in Base64", Raw, Raw(x=b"\xff\xfe")),
    ("uuid", uuid.UUID, uuid.UUID(int=7)),
    ("path", PurePosixPath, PurePosixPath("/a/b")),
    ("address", ipaddress.IPv4Network, ipaddress.IPv4Network("10.0.0.0/8")),
    ("pattern", re.Pattern[str], re.compile("a+")),
    ("url", HttpUrl, HttpUrl("https://example.com/é?q=1")),
    ("any url", AnyUrl, AnyUrl("redis://host/0")),
    ("naive time", datetime, datetime(2026, 1, 1, 12, 0, 0, 1)),
    ("aware time", datetime, datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3)))),
    ("UTC", datetime, datetime(2026, 1, 1, tzinfo=UTC)),
    ("zone", datetime, datetime(2026, 6, 1, tzinfo=PARIS)),
    ("hour that comes twice", datetime, TWICE),
    ("time of day", time, time(12, 30, tzinfo=UTC)),
    ("duration", timedelta, timedelta(days=-1, microseconds=1)),
    ("duration as a number", Times, Times(x=timedelta(milliseconds=1500))),
    ("dataclass", Point, Point(1.5, ["a"])),
    ("generic", Box[int], Box[int](content=1)),
    ("generic of any", Box, Box[int](content=1)),
    ("generic of an alias", Box[Item], Box[Item](content=Item.model_validate({"unitPrice": 1}))),
    ("root", Page, Page([Item.model_validate({"unitPrice": 1})])),
    ("union", Cat | Dog, Dog(name="Rex")),
    ("discriminated", Pet, Dog(name="Rex")),
    ("tagged", Tagged, [1]),
    ("recursive", Tree, Tree(children=[Tree(pet=Cat())])),
    ("int or text", int | str, "1"),
    ("float or int", float | int, 1),
    ("extra fields", Open, Open.model_validate({"x": 1, "y": {"z": [1]}})),
    ("computed", Computed, Computed(width=3)),
    ("JSON in JSON", Parsed, Parsed.model_validate({"inner": "[1]"})),
    ("private", Caching, cached(1)),
    ("NaN as a constant", Constants, Constants(x=NAN)),
    ("NaN as text", Strings, Strings(x=NAN, y=[INFINITY, -INFINITY, NAN])),
    ("revealed", Revealed, Revealed(password=SecretStr("sesame"))),
    ("excluded and default", ExcludingDefault, ExcludingDefault(x=1)),
    ("anything", Any, {"a": [1, "b", None, 1.5, True]}),
    ("dict", dict, {"a": {"b": 1}}),
    ("no equality", Bare, Bare(1.5)),
    ("no equality, of somebody else", Shown, Fraction(1, 3)),
    ("no equality in a list", list[Shown], [Fraction(1, 3), Fraction(2, 3)]),
]

#: What would arrive as something else, or not at all: a name, the type, the message.
REFUSED: list[tuple[str, Any, object]] = [
    ("NaN", float, NAN),
    ("infinity", float, INFINITY),
    ("NaN within", Float, Float(x=NAN)),
    ("NaN in a dict", dict[str, float], {"x": NAN}),
    ("NaN in a dataclass", Point, Point(-INFINITY)),
    ("NaN somewhere", Any, [NAN]),
    ("decimal NaN", Decimal, Decimal("NaN")),
    ("secret", Login, Login(user="ann", password=SecretStr("sesame"))),
    ("bare secret", SecretStr, SecretStr("sesame")),
    ("secret bytes", SecretBytes, SecretBytes(b"sesame")),
    ("lone surrogate", str, "\ud800"),
    ("lone surrogate within", dict[str, str], {"a": "\udfff"}),
    ("no UTF-8", bytes, b"\xff"),
    ("Base64 one way", HalfRaw, HalfRaw(x=b"\xff\xfe")),
    ("very large int", int, 10**5000),
    ("excluded", Excluding, Excluding(x=1, secret="s")),
    ("secret of an entity", Entity, Entity(id=1, secret=SecretStr("s"))),
    ("secrets of entities", dict[str, list[Entity]], {"a": [Entity(id=1, secret=SecretStr("s"))]}),
    ("secret in metadata", Labelled, Labelled(metadata=Entity(id=1, secret=SecretStr("s")))),
    ("secret by default", Preset, Preset(default=[Entity(id=1, secret=SecretStr("s"))])),
    ("NaN in an entity", Entity, Entity(id=1, size=NAN)),
    ("secret that is not compared", Record, Record(1, SecretStr("s"))),
    ("infinity in an entity of its own sort", Place, Place(1, INFINITY)),
    ("excluded with a value", ExcludingDefault, ExcludingDefault(x=1, cache="c")),
    ("subclass", Dog, Puppy(name="Rex", age=3)),
    ("subclass without fields of its own", list[Dog], [Puppy(name="Rex")]),
    ("subclass of a dataclass", Point, Point3(1.0, z=2.0)),
    ("serialised as any", Summary, Summary(pets=[Puppy(name="Rex", age=3)])),
    ("never validated", Positive, construct(Positive, x=-1)),
    ("incomplete", Positive, construct(Positive)),
    ("of another type", Positive, "text"),
    ("a model somewhere", Any, Cat()),
    ("a tuple somewhere", Any, {"a": (1, 2)}),
    ("a number as a key somewhere", dict, {1: "a"}),
    ("a time somewhere", list, [datetime(2026, 1, 1)]),
    ("rounded", Rounding, Rounding(x=1.25)),
    ("hashed at each reading", Hashing, construct(Hashing, x="hash of a")),
    ("one way", OneWay, OneWay(x=1)),
    ("pattern with flags", re.Pattern[str], re.compile("a", re.IGNORECASE)),
    ("a validator that raises", Exploding, 1),
    ("half of an object", Halved, Fraction(1, 3)),
    ("a function", Any, print),
]
