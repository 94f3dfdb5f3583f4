"""Negotiate permessage-deflate compression (RFC 6455, 9; RFC 7692, 5 and 7.1)."""

from __future__ import annotations

import dataclasses
import re
from typing import Iterable, Iterator, List, Optional, Tuple

#: An extension's parameters, as pairs of name and value.
Parameters = List[Tuple[str, Optional[str]]]

#: The name of the extension.
NAME = "permessage-deflate"
#: The base-2 logarithm of the smallest window that zlib supports when it produces raw DEFLATE.
#: zlib does not support 8.
MIN_BITS = 9
_MAX_BITS = 15
_WINDOW_BITS = {str(bits): bits for bits in range(8, 16)}  # decimal, no leading zeros (7.1.2)
_SERVER_BITS, _CLIENT_BITS = "server_max_window_bits", "client_max_window_bits"
_SERVER_RESETS, _CLIENT_RESETS = "server_no_context_takeover", "client_no_context_takeover"

_TCHAR = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_NO_ELEMENT = re.compile(r"[ \t,]*")
# A name with an optional value. No part can match in two ways, so matching takes linear time.
_PAIR = re.compile(
    rf'[ \t]*({_TCHAR}+)[ \t]*(?:=[ \t]*(?:({_TCHAR}+)|"((?:\\?{_TCHAR})+)")[ \t]*)?'
)


@dataclasses.dataclass(frozen=True)
class PerMessageDeflate:
    """Settings for compression (permessage-deflate, RFC 7692).

    :param window_bits: The base-2 logarithm of the window size in bytes, 9 to 15. The default, 12,
        means 4 KiB. It applies to both directions: this side compresses with it, and asks the peer
        to do the same. A peer that declines or does not support this uses up to 15 bits, and then
        decompressing needs 32 KiB for the window; ``ws.compression`` shows the negotiated value. A
        smaller window needs less memory but compresses less.
    :param mem_level: The amount of memory that zlib uses for compressing, in addition to the
        window: 1 to 9, by default 5. Each level doubles it.
    :param level: The compression level: 0 (no compression) to 9 (best), by default 6. -1 lets zlib
        choose.
    :param context_takeover: True, the default, to let a message refer to earlier ones. False asks
        both sides to compress each message independently. This compresses less, but only needs
        memory while a message is being compressed or decompressed.
    :param threshold: The minimum size in bytes of messages to compress, by default 128. Compressing
        shorter messages saves nothing.
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
    """The negotiated compression parameters (RFC 7692, 7.1).

    :param client_max_window_bits: The base-2 logarithm of the largest window, in bytes, that the
        client uses for compressing.
    :param server_max_window_bits: The same for the server.
    :param client_no_context_takeover: True if the client compresses each message independently.
    :param server_no_context_takeover: The same for the server.
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
    """Yield the extensions listed in Sec-WebSocket-Extensions headers (RFC 6455, 9.1).

    :raises ValueError: A value is malformed.
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
    assert match is not None  # the pattern also matches the empty string
    return match.end()


def offer(settings: PerMessageDeflate) -> bytes:
    """Return the Sec-WebSocket-Extensions value that a client sends.

    A server declines an offer that contains an unsupported parameter. So the value also contains
    fallback offers with fewer and fewer parameters; the last one has none (RFC 7692, 5.1).
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
    """Return a server's answer to a client's offers, and the agreed parameters.

    :param values: The values of the request's Sec-WebSocket-Extensions headers.
    :param settings: The server's settings.
    :returns: None if the server supports none of the offers.
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
    # The answer can contain this parameter only if the client offered it; otherwise the client can
    # use up to 15 bits. An offer of 8 permits no other value (7.1.2.2), and this side can inflate
    # messages compressed with 8 bits.
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
    """Check a server's answer to a client's :func:`offer`, and return the agreed parameters.

    The last offer has no parameters, so the server can choose any window size and either setting of
    context takeover.

    :param values: The values of the response's Sec-WebSocket-Extensions headers.
    :param settings: The client's settings.
    :returns: None if the server declined.
    :raises ValueError: The answer is malformed or does not match the offer.
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
        # This side never uses a larger window than its own setting, so a larger value, or none,
        # makes no difference. zlib does not support 8: then `DeflateCodec.can_deflate` is False.
        client_max_window_bits=min(settings.window_bits, accepted.get(_CLIENT_BITS, _MAX_BITS)),
        server_max_window_bits=accepted.get(_SERVER_BITS, _MAX_BITS),
        client_no_context_takeover=_CLIENT_RESETS in accepted or not settings.context_takeover,
        server_no_context_takeover=_SERVER_RESETS in accepted,
    )


def _checked(parameters: Parameters, *, is_offer: bool) -> dict[str, int]:
    """Return the parameters by name (RFC 7692, 7.1); the value of a flag is 0.

    :raises ValueError: A parameter is unknown, invalid or repeated.
    """
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
