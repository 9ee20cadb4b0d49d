"""`RedisSettings`: how to reach a server, the primary that sentinels watch, or a cluster."""

import re
import ssl
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Annotated, ClassVar, Final, NamedTuple, Self, TypeAlias, cast
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from ..._model.fields import Deadline

__all__ = ["Address", "Credentials", "RedisSettings", "context_of", "credentials_of"]

_UserAndPassword: TypeAlias = tuple[str | None, str]

Credentials: TypeAlias = Callable[[], _UserAndPassword | Awaitable[_UserAndPassword]]
"""Returns user and password for one connection; a function, or a coroutine function."""

_URL: Final = re.compile(
    r"(?:unix|(?:redis|valkey)(s?)(?:\+(sentinel|cluster))?)://"
    r"(?:([^/:\[\]]*)(?::([^/\[\]]*))?@)?([^/@]*)(/.*)?",
    re.DOTALL,
)

#: The usual ports, by what there is behind a plus sign in the scheme of a URL.
_PORTS: Final = {"": 6379, "sentinel": 26379, "cluster": 6379}

_NO_URL: Final = (
    "not a URL of a Redis server: it looks like redis://user:password@host:6379/0, rediss://..."
    " with TLS, unix:///path, redis+sentinel://host:26379,host:26379/service/0 or"
    " redis+cluster://host:6379,host:6379, with special signs as %40 and the like"
)


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, text: str, port: int) -> Self:
        """Read ``host:port``, ``host`` or ``[address]:port``.

        :param text: the address
        :param port: the port, if it names none
        :raises ValueError: if it is no address
        """
        parts = urlsplit(f"//{text}")
        found = port if parts.port is None else parts.port
        rest = (parts.username, parts.path, parts.query, parts.fragment)
        if not parts.hostname or not found or any(rest) or re.search(r"\s", text):
            raise ValueError("an address looks like host:port")
        return cls(parts.hostname, found)


def _is_address(text: str) -> str:
    Address.of(text, 1)
    return text


_Addresses: TypeAlias = tuple[Annotated[str, AfterValidator(_is_address)], ...]


class RedisSettings(BaseModel, frozen=True):
    """How to reach a Redis server, for those who do not want it all in one URL.

    Secrets are shown as stars wherever it is printed, and are never logged.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", hide_input_in_errors=True)

    host: str = "localhost"
    """Name or address of the server."""
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = 6379
    """Its TCP port."""
    socket: str | None = None
    """Path of a Unix socket to use instead."""
    sentinels: _Addresses = ()
    """Sentinels to ask where the primary is, instead, as ``host:port``; some that are away do no
    harm.
    """
    service: str | None = None
    """With `sentinels`: what they call the primary, such as ``mymaster``."""
    cluster: _Addresses = ()
    """Some nodes of a cluster instead, as ``host:port``; the others are found through them."""
    database: Annotated[int, Field(strict=True, ge=0)] = 0
    """Number of the database; a cluster has one, 0."""
    username: str | None = None
    """Name of the ACL user; that of the server's default user if not given."""
    password: SecretStr | None = None
    """Its password."""
    credentials: SkipJsonSchema[Annotated[Credentials | None, Field(exclude=True, repr=False)]] = (
        None
    )
    """Called for each connection instead, for tokens that change: returns the name of the user, or
    ``None``, and the password. It may be a coroutine function, and has `connect_timeout`. An
    `OSError` that it raises is an outage like any other. Neither it nor what it returns is shown;
    `model_dump` leaves it out, as it is no data.
    """
    sentinel_username: str | None = None
    """Name of the ACL user of the sentinels."""
    sentinel_password: SecretStr | None = None
    """Password of the sentinels, if they ask for one."""
    tls: Annotated[bool, Field(strict=True)] = False
    """Whether to encrypt, also to the sentinels; the certificate and the name of the host are
    verified.
    """
    tls_ca: FilePath | None = None
    """Certificates to trust, as a PEM file; those of the system if not given."""
    tls_certificate: FilePath | None = None
    """Certificate to show to the server, as a PEM file with its key."""
    connect_timeout: Annotated[Deadline, Field(allow_inf_nan=False)] = 5.0
    """How long connecting and logging in may take, in seconds."""
    response_timeout: Annotated[Deadline, Field(allow_inf_nan=False)] = 10.0
    """How long an answer may take before the connection is given up, in seconds."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if sum(map(bool, (self.socket, self.sentinels, self.cluster))) > 1:
            raise ValueError("give one of socket, sentinels and cluster")
        if bool(self.sentinels) != bool(self.service):
            raise ValueError("sentinels and service go together: who to ask, and for what")
        if self.cluster and self.database:
            raise ValueError("a cluster has no database but 0")
        if self.credentials is not None and (self.username or self.password):
            raise ValueError("give credentials, or username and password")
        if (self.sentinel_username or self.sentinel_password) and not self.sentinels:
            raise ValueError("sentinel_username and sentinel_password are for sentinels")
        return self

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read a URL.

        It is one of ``redis://user:password@host:port/database``, ``rediss://`` with TLS,
        ``unix:///path``, ``redis+sentinel://host:port,host:port/service/database`` and
        ``redis+cluster://host:port,host:port``. Each may say ``valkey`` instead, and ``rediss`` or
        ``valkeys`` with TLS.

        :param url: the URL; signs with a meaning in URLs are written as ``%40`` and the like
        :return: the settings
        :raises ValueError: if it is no such URL; the message does not repeat it
        """
        found = _URL.fullmatch(url) if isinstance(cast("object", url), str) else None
        if found is None:
            raise ValueError(_NO_URL)
        tls, kind, username, password, hosts, path = found.groups(default="")
        if "?" in hosts + path or "#" in hosts + path:
            raise ValueError(
                "the URL of a Redis server has no options here: use RedisSettings for them"
            )
        fields: dict[str, object] = {
            "username": unquote(username) or None,
            "password": unquote(password) or None,
        }
        if url.startswith("unix"):
            return cls.model_validate(fields | {"socket": unquote(path)})
        path = path.strip("/")
        try:
            addresses = [Address.of(each, _PORTS[kind]) for each in hosts.split(",")]
        except ValueError:
            raise ValueError(_NO_URL) from None
        if kind == "sentinel":
            service, _, path = path.partition("/")
            if not service:
                raise ValueError(
                    "the URL of sentinels names the primary: redis+sentinel://host:26379/mymaster"
                )
            fields |= {"sentinels": tuple(map(str, addresses)), "service": unquote(service)}
        elif kind == "cluster":
            fields["cluster"] = tuple(map(str, addresses))
        elif len(addresses) > 1:
            raise ValueError(
                "the URL of a Redis server has one host: several belong to redis+sentinel:// or"
                " redis+cluster://"
            )
        else:
            fields |= addresses[0]._asdict()
        if path and not (path.isascii() and path.isdecimal()):
            raise ValueError("the URL of a Redis server has a host, and a number as its path")
        return cls.model_validate(fields | {"database": int(path or 0), "tls": bool(tls)})

    def __str__(self) -> str:
        if self.cluster:
            return f"Redis Cluster at {', '.join(self.cluster)}"
        place = self.socket or str(Address(self.host, self.port))
        if self.sentinels:
            place = f"{self.service!r} of the sentinels {', '.join(self.sentinels)}"
        return f"Redis at {place}, database {self.database}"


async def credentials_of(settings: RedisSettings) -> tuple[str | None, str | None]:
    """Return user and password for one connection to a server that has the data."""
    if settings.credentials is None:
        secret = settings.password
        return settings.username, None if secret is None else secret.get_secret_value()
    found: object = settings.credentials()
    if isawaitable(found):
        found = await found
    match found:
        case (str() | None as username, str() as password):
            return username, password
        case _:  # which may be a secret, and is not shown
            raise TypeError(
                "credentials() of the RedisSettings returns a user, or None, and a password:"
                f" not {type(found).__name__}"
            )


def context_of(settings: RedisSettings) -> ssl.SSLContext | None:
    """Return how to encrypt, if one is to."""
    if not settings.tls:
        return None
    context = ssl.create_default_context(cafile=settings.tls_ca)
    if settings.tls_certificate is not None:
        context.load_cert_chain(settings.tls_certificate)
    return context
