"""What both sides of the opening handshake share: HTTP/1.1, bytes in and out (RFC 6455, 4).

h11, the engine of wsproto's own handshake, parses and writes HTTP. The rules of RFC 6455 are
checked by us, and not by wsproto, because it takes what it must refuse (a bad key), refuses what it
must take (a header in two lines), fails on bytes outside ASCII, and can't bound the size of a head.
What comes out is what an open connection needs.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Iterable, List, Mapping, Tuple, Union

import h11
import wsproto

from .deflate import DeflateExtension
from .errors import printable

Headers = List[Tuple[bytes, bytes]]
#: Headers as users give them. 0.12 took str as well, so we do.
ExtraHeaders = Iterable[Tuple[Union[bytes, str], Union[bytes, str]]]

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
VERSION = b"13"
# Lines in a head. Without a limit, 64 KiB of short ones would become 2 MiB of header fields.
MAX_FIELDS = 256
# Elements of a header that is a list, with their parameters and over all of its lines.
MAX_ELEMENTS = 100
_LISTS = (b"connection", b"upgrade", b"sec-websocket-protocol", b"sec-websocket-extensions")


@dataclasses.dataclass(frozen=True)
class HandshakeResult:
    """The outcome of an opening handshake."""

    #: Which side it is of.
    side: wsproto.ConnectionType
    #: The request target.
    path: str | None
    #: The subprotocol that the server chose.
    subprotocol: str | None
    #: The headers that the peer sent, with names in lower case.
    headers: tuple[tuple[bytes, bytes], ...]
    #: What came behind the peer's head: the first frames.
    trailing: bytes
    #: The compression of messages, if it was agreed on.
    extension: DeflateExtension | None = None


def next_event(http: h11.Connection) -> object:
    """The next event.

    :raises h11.RemoteProtocolError: The peer does not speak HTTP.
    """
    try:
        return http.next_event()
    except h11.RemoteProtocolError as exc:
        # A frame of h11's refers to it, so that only the garbage collector would free both.
        raise exc.with_traceback(None)  # noqa: B904 # it is the same one
    except ValueError as exc:
        # h11 before 0.15 makes an int of any Content-Length; Python has a limit for their digits.
        raise h11.RemoteProtocolError("bad Content-Length") from exc


def text_of_h11(exc: Exception) -> str:
    """The message of h11, which may repeat all that the peer sent."""
    return printable(str(exc))


class HeaderLimit:
    """How long a head is. h11 looks at those only that are not whole after a read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.received = 0

    def is_allowed(
        self, http: h11.Connection, head: h11.Request | h11.InformationalResponse | h11.Response
    ) -> bool:
        """True if the head that was parsed just now is within the limits."""
        return self.fits(len(http.trailing_data[0]), len(head.headers))

    def fits(self, trailing: int, fields: int) -> bool:
        """True if a head is within the limits.

        :param trailing: Bytes that were received after it.
        :param fields: The number of its header lines.
        """
        return self.received - trailing <= self._limit and fields <= MAX_FIELDS

    @property
    def bounds(self) -> str:
        """The limits, in words that follow "has more than"."""
        return f"max_header_size={self._limit} bytes, or more than {MAX_FIELDS} lines"


def merge_headers(headers: Headers, extra_headers: ExtraHeaders | None) -> Headers:
    """Our headers and the user's, which take the place of ours: HTTP has one Host.

    :raises TypeError: What is to be a header is none.
    """
    pairs = check_headers(extra_headers) or ()
    extra = [(header_bytes(name), header_bytes(value)) for name, value in pairs]
    replaced = {name.lower() for name, _ in extra}
    return [pair for pair in headers if pair[0].lower() not in replaced] + extra


def check_headers(extra_headers: object) -> ExtraHeaders | None:
    """Return the headers that a user gave; an iterator is read into a list.

    :raises TypeError: They are not pairs of name and value.
    :raises ValueError: A name or value that is a str is not ASCII.
    """
    if extra_headers is None:
        return None
    wanted = "extra_headers must be a list of (name, value) pairs"
    if isinstance(extra_headers, Mapping):
        raise TypeError(f"{wanted}, not a {type(extra_headers).__name__}")
    if isinstance(extra_headers, (str, bytes)) or not isinstance(extra_headers, Iterable):
        raise TypeError(f"{wanted}, not {extra_headers!r:.100}")
    pairs = extra_headers if isinstance(extra_headers, (list, tuple)) else list(extra_headers)
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(f"{wanted}, and one element is {pair!r:.100}")
        for text in pair:
            header_bytes(text)
    return pairs


def header_bytes(text: bytes | str) -> bytes:
    """The name or value of a header that a user gave."""
    if isinstance(text, str):
        return text.encode("ascii")
    if isinstance(text, bytes):
        return text
    raise TypeError(f"the name and value of a header must be bytes or str, not {text!r:.100}")


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The values of the headers of that name, which is in lower case."""
    return [value for key, value in headers if key == name]


def group_headers(headers: Headers) -> dict[bytes, list[bytes]]:
    """The values of all headers."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value)
    return fields


def check_elements(fields: Mapping[bytes, list[bytes]]) -> None:
    """Raise a ValueError if a header that is a list has too many elements, or parameters of them.

    Short elements take much more memory and time than their bytes.
    """
    for name in _LISTS:
        lines = fields.get(name)
        if not lines or (len(lines) == 1 and len(lines[0]) < MAX_ELEMENTS):
            continue  # most are so short
        count = sum(1 + line.count(b",") + line.count(b";") for line in lines)
        if count > MAX_ELEMENTS:
            raise ValueError(f"the header {name.decode()} has more than {MAX_ELEMENTS} elements")


def split_tokens(values: Iterable[bytes]) -> list[bytes]:
    """The elements of a list, which may stand in several lines, and be empty (RFC 9110, 5.6.1)."""
    pieces = b",".join(values).split(b",")
    return [piece.strip() for piece in pieces if piece.strip()]


def split_tokens_lower(values: Iterable[bytes]) -> list[bytes]:
    """The same in lower case, where case does not matter."""
    return [token.lower() for token in split_tokens(values)]
