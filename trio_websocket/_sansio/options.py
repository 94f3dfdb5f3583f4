"""The limits and time-outs of a connection: every one has a default, a unit and a reason."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import ssl
from typing import Any, Callable, Iterable, Mapping, TypedDict, TypeVar

from .extensions import PerMessageDeflate

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that every opening function and the server take as keywords.

    ``math.inf`` means no limit, except for those that are int.
    """

    #: Messages that were received and wait for ``get_message``. When so many wait, and one more,
    #: no more is read, and TCP stops the peer. A small queue bounds memory, and lets the peer feel
    #: that the application is slow.
    message_queue_size: float = 1
    #: Bytes of payload of one received message. A larger one is refused with close code 1009 when
    #: its frame header is seen, before its payload is kept. 1 MiB holds what applications
    #: usually send, and a thousand connections can't take more than a gigabyte.
    max_message_size: float = 2**20
    #: Bytes that one read asks of the stream; None, and the default, let the library choose.
    receive_buffer_size: int | None = 4096
    #: Bytes of memory of messages that wait for ``get_message``; when they have as many, no more is
    #: read. It bounds what a long queue can cost.
    message_queue_bytes: float = 2**24
    #: How messages are compressed, if the peer can do it, too (permessage-deflate, RFC 7692). None
    #: neither offers nor accepts it: it takes memory and time, which pays for large texts only.
    compression: PerMessageDeflate | None = None
    #: Frames of one received message. Each costs time even if it is empty; more are refused with
    #: close code 1009. The default lets 8 MiB through in pieces of 64 bytes.
    max_fragments: float = 2**17
    #: Bytes of the head of an HTTP request or response, that is, of what must be kept before a
    #: peer has shown to speak WebSocket. A longer request gets status 431.
    max_header_size: int = 2**16
    #: Bytes of the body of a rejection that are kept for :exc:`ConnectionRejected`: enough for an
    #: error page. The rest is not read.
    max_rejection_body: int = 2**16
    #: Bytes that wait to be written, above which a sender waits. 64 KiB keep a fast network busy
    #: for a turn of the scheduler; a peer that does not read costs that and one message.
    max_unsent_bytes: float = 2**16
    #: Pings of ours that wait for their Pongs; ``ping`` waits before it sends a further one. A peer
    #: that answers none costs no more than these.
    max_unanswered_pings: float = 2**10
    #: Seconds between the Pings that keep a connection alive: proxies drop those that are idle, and
    #: a peer that is gone without a word is found out. None sends none, as it was in 0.12.
    ping_interval: float | None = None
    #: Seconds in which such a Ping must be answered, from the last byte that came, or that the
    #: stream took up to the Ping, and not counting those in which nothing was read because the
    #: application did not read. Then the connection is closed with code 1011.
    ping_timeout: float = 20
    #: Seconds that a client gives name look-up, TCP, TLS and the opening handshake together, and a
    #: server TLS and the request. Slow networks need some of it; nobody waits longer than a minute.
    connect_timeout: float = 60
    #: Seconds that the closing handshake may take. The stream is closed after it in any case.
    disconnect_timeout: float = 60

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("receive_buffer_size", "ping_interval") and value is None:
                continue
            if field.name == "compression":
                _check_compression(value)
                continue
            if field.name == "receive_buffer_size":
                _check_integer(field.name, value, 1)
            elif field.name in ("max_header_size", "max_rejection_body"):
                _check_integer(field.name, value, 0)
            else:
                check_number(field.name, value)
        if self.ping_interval == 0:
            raise ValueError("ping_interval must be more than 0, or None, not 0")
        # With 0, no Pong could be in time, and `ping` would wait for ever for its turn.
        for name in ("ping_timeout", "max_unanswered_pings"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be more than 0, or math.inf, not 0")

    @classmethod
    def of_call(cls, function: Callable[..., object], options: Mapping[str, Any]) -> Options:
        """Return the options that a caller passed to `function` as keywords.

        :raises TypeError: An option is unknown or has the wrong type. The message names
            `function`, as Python's own message for an unknown keyword would.
        :raises ValueError: An option is out of range.
        """
        check_option_names(function, options)
        return cls(**options)


_NAMES = frozenset(field.name for field in dataclasses.fields(Options))


def check_option_names(function: Callable[..., object], options: Iterable[str]) -> None:
    """Raise if a caller passed a keyword to `function` that is not an option.

    :raises TypeError: The message names `function`, as Python's own message would.
    """
    for name in options:
        if name not in _NAMES:
            raise TypeError(_unexpected(function, name))


def _unexpected(function: Callable[..., object], name: str) -> str:
    known = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    # A likely misspelling, or else the options whose names share most of the letters.
    meant = difflib.get_close_matches(name, known, 1, 0.85)
    meant = meant or difflib.get_close_matches(name, known, 3, 0.6)
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    called = function.__qualname__.replace(".__init__", "")
    return f"{called}() got an unexpected keyword argument {name!r}{hint}"


class NewerOptionKeywords(TypedDict, total=False):
    """The fields of :class:`Options` that are nowhere positional, for type checkers."""

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
    """The fields of :class:`Options` as keywords, for type checkers."""

    message_queue_size: float
    max_message_size: float
    receive_buffer_size: int | None


def _check_compression(value: object) -> None:
    if value is not None and not isinstance(value, PerMessageDeflate):
        raise TypeError(f"compression must be a PerMessageDeflate or None, not {value!r:.100}")


def check_number(name: str, value: object) -> None:
    """Raise if the value is not 0 or more."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number or math.inf, not {value!r:.100}")
    if not value >= 0:  # written so that NaN is refused, too
        raise ValueError(f"{name} must be 0 or more, or math.inf, not {value!r}")


def check_ssl_context(value: object) -> None:
    """Raise if the value is neither an SSL context nor None."""
    if value is not None and not isinstance(value, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext or None, not {value!r:.100}")


def _check_integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r:.100}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")


def with_option_signature(function: _F) -> _F:
    """Show the options by name and default in the signature, in place of ``**options``."""
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=field.type,
        )
        for field in dataclasses.fields(Options)
        if field.name not in signature.parameters
    ]
    function.__dict__["__signature__"] = signature.replace(parameters=named + options)
    return function
