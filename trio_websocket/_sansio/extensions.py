"""The negotiation of compression, permessage-deflate (RFC 6455, 9, and RFC 7692, 5 and 7.1)."""

from __future__ import annotations

import dataclasses
import re
from typing import Iterable, Iterator, List, Optional, Tuple

#: The parameters of an extension, by name and value.
Parameters = List[Tuple[str, Optional[str]]]

#: The name of the extension.
NAME = "permessage-deflate"
#: The base-two logarithm of the least window that zlib compresses with: raw, it has none of 8.
MIN_BITS = 9
_MAX_BITS = 15
_WINDOW_BITS = {str(bits): bits for bits in range(8, 16)}  # decimal, no leading zeros (7.1.2)
_SERVER_BITS, _CLIENT_BITS = "server_max_window_bits", "client_max_window_bits"
_SERVER_RESETS, _CLIENT_RESETS = "server_no_context_takeover", "client_no_context_takeover"

_TCHAR = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_NO_ELEMENT = re.compile(r"[ \t,]*")
# A name, and a value if there is one. Wherever it fails, it has one way back, so it is linear.
_PAIR = re.compile(
    rf'[ \t]*({_TCHAR}+)[ \t]*(?:=[ \t]*(?:({_TCHAR}+)|"((?:\\?{_TCHAR})+)")[ \t]*)?'
)


@dataclasses.dataclass(frozen=True)
class PerMessageDeflate:
    """How messages are compressed (permessage-deflate, RFC 7692).

    :param window_bits: The base-two logarithm of the window in bytes, 9 to 15; 12, the default, is
        4 KiB. It bounds both directions: the window that we compress with, and the one that we ask
        of the peer. A peer that can't be asked, or declines, uses up to 15, so that decompressing
        takes 32 KiB for the window; ``ws.compression`` shows it. A smaller one costs less memory,
        and compresses less.
    :param mem_level: How much memory zlib takes beside the window to compress, 1 to 9, by default
        5; each level doubles it.
    :param level: How much time zlib takes to compress, from 0 (it does not compress) to 9, by
        default 6; -1 lets zlib choose.
    :param context_takeover: Whether a message may refer to what is in those before it, which is the
        default. If not, both sides are asked to begin anew with each message: that compresses less,
        but takes memory only while a message is compressed or decompressed.
    :param threshold: Bytes of payload below which a message is sent as it is, by default 128.
        Compression gains nothing on what is short.
    """

    window_bits: int = 12
    mem_level: int = 5
    level: int = 6
    context_takeover: bool = True
    threshold: int = 128

    def __post_init__(self) -> None:
        _check_int("window_bits", self.window_bits, MIN_BITS, _MAX_BITS)
        _check_int("mem_level", self.mem_level, 1, 9)
        _check_int("level", self.level, -1, 9)
        _check_int("threshold", self.threshold, 0, None)
        if not isinstance(self.context_takeover, bool):
            raise TypeError(f"context_takeover must be a bool, not {self.context_takeover!r}")


@dataclasses.dataclass(frozen=True)
class DeflateParameters:
    """What the two sides of a connection agreed on (RFC 7692, 7.1).

    :param client_max_window_bits: The base-two logarithm of the window, in bytes, that the client
        compresses with at most.
    :param server_max_window_bits: The same of the server.
    :param client_no_context_takeover: Whether the client begins anew with each message.
    :param server_no_context_takeover: The same of the server.
    """

    client_max_window_bits: int
    server_max_window_bits: int
    client_no_context_takeover: bool
    server_no_context_takeover: bool


def _check_int(name: str, value: object, least: int, most: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least or (most is not None and value > most):
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def parse_extensions(values: Iterable[bytes]) -> Iterator[tuple[str, Parameters]]:
    """The extensions in the values of Sec-WebSocket-Extensions headers (RFC 6455, 9.1).

    :raises ValueError: A value has another grammar.
    """
    for value in values:
        if not value.isascii():
            raise _malformed(value)
        text = value.decode("ascii")
        at = _end(_NO_ELEMENT.match(text))
        while at < len(text):
            pair = _PAIR.match(text, at)
            if pair is None or pair.lastindex != 1:
                raise _malformed(value)
            name = pair[1]
            at = pair.end()
            parameters: Parameters = []
            while text.startswith(";", at):
                pair = _PAIR.match(text, at + 1)
                if pair is None:
                    raise _malformed(value)
                key, token, quoted = pair.groups()
                parameters.append((key, quoted.replace("\\", "") if quoted else token))
                at = pair.end()
            if at < len(text) and text[at] != ",":
                raise _malformed(value)
            yield name, parameters
            at = _end(_NO_ELEMENT.match(text, at))


def _malformed(value: bytes) -> ValueError:
    return ValueError(f"Sec-WebSocket-Extensions is malformed: {value[:200]!r}")


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # it matches nothing, too
    return match.end()


def offer(settings: PerMessageDeflate) -> bytes:
    """Return the value of Sec-WebSocket-Extensions that a client offers.

    Servers that do not know a parameter decline the offer with it, so that others follow as
    fallbacks, each with fewer parameters, down to none (RFC 7692, 5.1).
    """
    bits = settings.window_bits
    resets = [] if settings.context_takeover else [_SERVER_RESETS, _CLIENT_RESETS]
    offers = [[_CLIENT_BITS, *resets], resets, [_CLIENT_BITS], []]
    if bits < _MAX_BITS:
        offers.insert(0, [f"{_SERVER_BITS}={bits}", f"{_CLIENT_BITS}={bits}", *resets])
    distinct = dict.fromkeys("; ".join([NAME, *parameters]) for parameters in offers)
    return ", ".join(distinct).encode("ascii")


def answer(
    values: Iterable[bytes], settings: PerMessageDeflate
) -> tuple[bytes, DeflateParameters] | None:
    """What a server answers to the offers of a client, and what is agreed with it.

    :param values: The values of the request's Sec-WebSocket-Extensions headers.
    :param settings: Those of the server.
    :returns: None if nothing was offered that the server can do.
    :raises ValueError: The headers are malformed.
    """
    chosen = None
    for name, parameters in parse_extensions(values):
        if name == NAME and chosen is None:
            chosen = _answer_to(parameters, settings)
    return chosen


def _answer_to(
    parameters: Parameters, settings: PerMessageDeflate
) -> tuple[bytes, DeflateParameters] | None:
    try:
        offered = _checked(parameters, is_offer=True)
    except ValueError:
        return None
    server_bits = min(settings.window_bits, offered.get(_SERVER_BITS, _MAX_BITS))
    if server_bits < MIN_BITS:
        return None
    # A client that does not offer the parameter can't be asked for it, and may use 15 bits. To one
    # that offers 8 the answer is 8: no other value is allowed (7.1.2.2), and we can inflate it.
    client_bits = _MAX_BITS
    if _CLIENT_BITS in offered:
        client_bits = min(settings.window_bits, offered[_CLIENT_BITS])
    agreed = DeflateParameters(
        client_max_window_bits=client_bits,
        server_max_window_bits=server_bits,
        client_no_context_takeover=_CLIENT_RESETS in offered or not settings.context_takeover,
        server_no_context_takeover=_SERVER_RESETS in offered or not settings.context_takeover,
    )
    parts = [NAME]
    if _SERVER_BITS in offered or server_bits < _MAX_BITS:
        parts.append(f"{_SERVER_BITS}={server_bits}")
    if client_bits < _MAX_BITS:
        parts.append(f"{_CLIENT_BITS}={client_bits}")
    if agreed.server_no_context_takeover:
        parts.append(_SERVER_RESETS)
    if agreed.client_no_context_takeover:
        parts.append(_CLIENT_RESETS)
    return "; ".join(parts).encode("ascii"), agreed


def check_answer(values: Iterable[bytes], settings: PerMessageDeflate) -> DeflateParameters | None:
    """What a client has agreed with a server that answered its :func:`offer`.

    The last of its offers has no parameters, so that any window of the server and any takeover of
    context fit.

    :param values: The values of the response's Sec-WebSocket-Extensions headers.
    :param settings: Those that were offered.
    :returns: None if the server declined.
    :raises ValueError: The answer is malformed, or does not fit the offer.
    """
    accepted = None
    for name, parameters in parse_extensions(values):
        if name != NAME:
            raise ValueError(f"the server chose the extension {name[:200]!r}, not offered")
        if accepted is not None:
            raise ValueError(f"the server chose {NAME} twice")
        accepted = _checked(parameters, is_offer=False)
    if accepted is None:
        return None
    return DeflateParameters(
        # We compress with no more than our bits, so a larger value, or none, changes nothing. If
        # the value is 8, which zlib can't do, `Deflate.can_deflate` is false.
        client_max_window_bits=min(settings.window_bits, accepted.get(_CLIENT_BITS, _MAX_BITS)),
        server_max_window_bits=accepted.get(_SERVER_BITS, _MAX_BITS),
        client_no_context_takeover=_CLIENT_RESETS in accepted or not settings.context_takeover,
        server_no_context_takeover=_SERVER_RESETS in accepted,
    )


def _checked(parameters: Parameters, *, is_offer: bool) -> dict[str, int]:
    """The parameters by name (RFC 7692, 7.1): window bits, and 0 for those without a value."""
    checked: dict[str, int] = {}
    for name, value in parameters:
        if name in checked:
            raise ValueError(f"{name[:200]!r} comes twice")
        if name in (_SERVER_RESETS, _CLIENT_RESETS) and value is None:
            checked[name] = 0
        elif name == _CLIENT_BITS and value is None and is_offer:
            checked[name] = _MAX_BITS
        elif name in (_SERVER_BITS, _CLIENT_BITS) and value in _WINDOW_BITS:
            checked[name] = _WINDOW_BITS[value]
        else:
            text = name if value is None else f"{name}={value}"
            raise ValueError(f"{text[:200]!r} is no valid parameter of {NAME}")
    return checked
