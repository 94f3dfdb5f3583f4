"""The limits and timeouts that client functions and servers accept as keyword arguments."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import ssl
from typing import Any, Callable, Iterable, Mapping, TypedDict, TypeVar

from .compat import Self
from .extensions import PerMessageDeflate

_F = TypeVar("_F", bound=Callable[..., Any])
# A function that raises if the value of an option is not allowed. It receives the option's name and
# value. It is not called for the default value, so it need not accept None if that is the default.
_Check = Callable[[str, object], None]


def check_number(name: str, value: object) -> None:
    """Raise an exception unless the value is a number of at least 0, or ``math.inf``."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number or math.inf, not {value!r:.100}")
    if not value >= 0:  # `value < 0` would accept NaN
        raise ValueError(f"{name} must be 0 or more, or math.inf, not {value!r}")


def check_ssl_context(value: object, name: str = "ssl_context") -> None:
    """Raise an exception unless the value is an SSL context or None."""
    if value is not None and not isinstance(value, ssl.SSLContext):
        raise TypeError(f"{name} must be an ssl.SSLContext or None, not {value!r:.100}")


def _check_positive(name: str, value: object, *, otherwise: str = "math.inf") -> None:
    check_number(name, value)
    if value == 0:
        raise ValueError(f"{name} must be more than 0, or {otherwise}, not {value!r}")


def check_interval(name: str, value: object) -> None:
    _check_positive(name, value, otherwise="None")


def check_int(name: str, value: object, *, least: int = 0) -> None:
    """Raise an exception unless the value is an int of at least `least`."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r:.100}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")


def _check_read_size(name: str, value: object) -> None:
    if value is not None:
        check_int(name, value, least=1)


def _check_compression(name: str, value: object) -> None:
    if not isinstance(value, PerMessageDeflate):
        raise TypeError(f"{name} must be a PerMessageDeflate or None, not {value!r:.100}")


def option(default: Any, check: _Check, *, is_secret: bool = False) -> Any:
    """Declare an option.

    :param default: The default value.
    :param check: The function that checks other values.
    :param is_secret: True if the value can contain credentials. Then `repr` omits it.
    """
    return dataclasses.field(default=default, repr=not is_secret, metadata={"check": check})


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of one connection, or of all connections of a server.

    The text below each option is its row in docs/limits.md: the unit, the reason, and the effect
    of exceeding the limit. To add an option, declare it here, in `OptionKeywords`, and in
    docs/limits.md; tests compare the three. ``math.inf`` means no limit, unless the option must be
    an int.

    Options that only some functions accept are declared in a subclass, in the same way.
    """

    message_queue_size: float = option(1, check_number)
    """received messages that are not read yet; there may be one more | a small queue limits
    memory and shows early that the reader is slow | nothing more is read; TCP stops the peer"""
    max_message_size: float = option(2**20, check_number)
    """bytes of payload of one received message | 1 MiB is enough for most applications | the
    peer gets Close 1009, and `get_message` raises `ConnectionClosed` with code 1009"""
    receive_buffer_size: int | None = option(4096, _check_read_size)
    """bytes requested by one read | a hint, kept from 0.12; with the default or `None` the
    library chooses"""
    message_queue_bytes: float = option(2**24, check_number)
    """bytes of memory of those messages | limits the memory of a long queue | nothing more is
    read; TCP stops the peer"""
    compression: PerMessageDeflate | None = option(None, _check_compression)  # noqa: RUF009 # a field
    """a `PerMessageDeflate`, or `None` | compression costs memory and time; it is worth it for
    large texts only | `max_message_size` limits the decompressed size, during decompression"""
    max_fragments: float = option(2**17, check_number)
    """frames of one received message | each frame costs time, even an empty one | the same as
    for `max_message_size`"""
    max_header_size: int = option(2**16, check_int)
    """bytes of the head of an HTTP request or response | the head is stored before the peer has
    proved that it speaks WebSocket | a client gets status 431; a server's response raises
    `HandshakeError`"""
    max_rejection_body: int = option(2**16, check_int)
    """bytes of the body in `ConnectionRejected` | 64 KiB is enough for an error page | the rest
    is not read"""
    max_unsent_bytes: float = option(2**16, check_number)
    """bytes in the send queue | enough to keep a fast network busy; a peer that does not read
    costs at most this plus one message | `send_message` waits"""
    # With 0, `ping` would wait forever.
    max_unanswered_pings: float = option(2**10, _check_positive)
    """your pings that have no answer yet | limits the memory if a peer never answers | `ping`
    waits before it sends"""
    ping_interval: float | None = option(None, check_interval)
    """seconds from one answer to the next keep-alive ping | proxies drop idle connections;
    `None`, as in 0.12, sends no pings"""
    # With 0, no Pong could arrive in time.
    ping_timeout: float = option(20, _check_positive)
    """seconds for the answer to a keep-alive ping, measured from the last byte received |
    detects a peer that vanished | Close 1011; `ConnectionClosed` with code 1011"""
    connect_timeout: float = option(60, check_number)
    """seconds until the connection is open | slow networks need several seconds |
    `ConnectionTimeout`; a server closes the connection"""
    disconnect_timeout: float = option(60, check_number)
    """seconds for the closing handshake | a peer that vanished never answers |
    `DisconnectionTimeout`; the stream is closed"""

    def __post_init__(self) -> None:
        for name, (default, check) in _declared_by(type(self)).items():
            value = getattr(self, name)
            if value is not default:
                check(name, value)

    @classmethod
    def of_call(cls, function: Callable[..., object], options: Mapping[str, Any]) -> Self:
        """Create the options from the keyword arguments that a caller passed to `function`.

        :raises TypeError: An option is unknown or has the wrong type. The message names
            `function`, as Python's own message for an unknown keyword would.
        :raises ValueError: An option is out of range.
        """
        check_option_names(function, options, cls)
        return cls(**options)


# A cache, because looking up the declarations takes longer than checking the values.
_declarations: dict[type[Options], dict[str, tuple[object, _Check]]] = {}


def _declared_by(kind: type[Options]) -> dict[str, tuple[object, _Check]]:
    """Return the default and the check of each option of a class, by name."""
    declared = _declarations.get(kind)
    if declared is None:
        fields = dataclasses.fields(kind)
        declared = {field.name: (field.default, field.metadata["check"]) for field in fields}
        _declarations[kind] = declared
    return declared


def check_option_names(
    function: Callable[..., object], options: Iterable[str], kind: type[Options] = Options
) -> None:
    """Raise an exception if a keyword that a caller passed to `function` is not an option.

    :param kind: The class that declares the options of `function`.
    :raises TypeError: The message names `function`, as Python's own message would.
    """
    known = _declared_by(kind)
    for name in options:
        if name not in known:
            raise TypeError(_unexpected(function, name))


def _unexpected(function: Callable[..., object], name: str) -> str:
    known = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    # Suggest the name if the keyword looks like a misspelling of it, or else up to three similar
    # names.
    meant = difflib.get_close_matches(name, known, 1, 0.85)
    meant = meant or difflib.get_close_matches(name, known, 3, 0.6)
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    called = function.__qualname__.replace(".__init__", "")
    return f"{called}() got an unexpected keyword argument {name!r}{hint}"


class NewerOptionKeywords(TypedDict, total=False):
    """The options that no function accepts as positional arguments, for type checkers."""

    compression: PerMessageDeflate | None
    max_fragments: float
    max_header_size: int
    max_rejection_body: int
    message_queue_bytes: float
    max_unsent_bytes: float
    max_unanswered_pings: float
    ping_interval: float | None
    ping_timeout: float
    connect_timeout: float
    disconnect_timeout: float


class OptionKeywords(NewerOptionKeywords, total=False):
    """All options, for type checkers."""

    message_queue_size: float
    max_message_size: float
    receive_buffer_size: int | None


def with_signature_of(kind: type[Options]) -> Callable[[_F], _F]:
    """Return a decorator that replaces ``**options`` in a signature with the options' names.

    :param kind: The class that declares the options of the function.
    """

    def decorate(function: _F) -> _F:
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field.type,
            )
            for field in dataclasses.fields(kind)
            if field.name not in signature.parameters
        ]
        function.__dict__["__signature__"] = signature.replace(parameters=named + options)
        return function

    return decorate


#: A decorator for functions that accept a connection's options.
with_option_signature = with_signature_of(Options)
