"""Compression of messages, permessage-deflate (RFC 7692): bytes in, bytes out.

wsproto has this extension, too. Ours takes its place because wsproto's inflates without bound,
keeps parameters of offers that it declined, and takes the window of the wrong side.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import zlib
from typing import TYPE_CHECKING, Iterable, Iterator, List, Optional, Tuple

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

if TYPE_CHECKING:
    from wsproto.frame_protocol import FrameDecoder, FrameProtocol

#: The parameters of an extension, by name and value.
Parameters = List[Tuple[str, Optional[str]]]

_NAME = "permessage-deflate"
_SERVER_BITS, _CLIENT_BITS = "server_max_window_bits", "client_max_window_bits"
_SERVER_RESETS, _CLIENT_RESETS = "server_no_context_takeover", "client_no_context_takeover"
_MAX_BITS = 15
_MIN_BITS = 9  # zlib has no raw deflate with 8
_WINDOW_BITS = {str(bits): bits for bits in range(8, 16)}  # decimal, no leading zeros (7.1.2)

_TCHAR = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_NO_ELEMENT = re.compile(r"[ \t,]*")
# A name, and a value if there is one. Wherever it fails, it has one way back, so it is linear.
_PAIR = re.compile(
    rf'[ \t]*({_TCHAR}+)[ \t]*(?:=[ \t]*(?:({_TCHAR}+)|"((?:\\?{_TCHAR})+)")[ \t]*)?'
)

_TAIL = b"\x00\x00\xff\xff"  # what a sender leaves out at the end of a message (7.2.1)
_FINAL_BLOCK = b"\x03\x00"  # an empty block with BFINAL
_EMPTY = b"\x00"  # an empty message (7.2.3.6)
# zlib copies the input that it leaves over, so it gets no more than this at once: a large one for
# speed; a small one in a message with final blocks, as any two bytes may be such a block.
_SLICE, _SMALL_SLICE = 2**16, 2**8


@dataclasses.dataclass(frozen=True)
class PerMessageDeflate:
    """How messages are compressed (permessage-deflate, RFC 7692).

    :param window_bits: The base-two logarithm of the window in bytes, 9 to 15; 12, the default, is
        4 KiB. It bounds both directions: the window that we compress with, and the one that we ask
        of the peer. (A client that can't be asked may still use 15.) A smaller one costs less
        memory, and compresses less.
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
        _check_int("window_bits", self.window_bits, _MIN_BITS, _MAX_BITS)
        _check_int("mem_level", self.mem_level, 1, 9)
        _check_int("level", self.level, -1, 9)
        _check_int("threshold", self.threshold, 0, None)
        if not isinstance(self.context_takeover, bool):
            raise TypeError(f"context_takeover is a bool, not {self.context_takeover!r}")


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


class TooLarge(Exception):
    """A message that inflates to more than is allowed."""


class InvalidData(Exception):
    """A message that can't be inflated."""


def _check_int(name: str, value: object, least: int, most: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {value!r}")
    if value < least or (most is not None and value > most):
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {wanted}, not {value!r}")


# -- negotiation


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
    """What a client offers: a value of Sec-WebSocket-Extensions."""
    bits = settings.window_bits
    parts = [_NAME]
    if bits < _MAX_BITS:
        parts += [f"{_SERVER_BITS}={bits}", f"{_CLIENT_BITS}={bits}"]
    else:
        parts.append(_CLIENT_BITS)
    if not settings.context_takeover:
        parts += [_SERVER_RESETS, _CLIENT_RESETS]
    return "; ".join(parts).encode("ascii")


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
        if name == _NAME and chosen is None:
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
    if server_bits < _MIN_BITS:
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
    parts = [_NAME]
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

    :param values: The values of the response's Sec-WebSocket-Extensions headers.
    :param settings: Those that were offered.
    :returns: None if the server declined.
    :raises ValueError: The answer is malformed, or does not fit the offer.
    """
    accepted = None
    for name, parameters in parse_extensions(values):
        if name != _NAME:
            raise ValueError(f"the server chose the extension {name[:200]!r}, not offered")
        if accepted is not None:
            raise ValueError(f"the server chose {_NAME} twice")
        accepted = _checked(parameters, is_offer=False)
    if accepted is None:
        return None
    bits = settings.window_bits
    # To accept the offer of this one is to repeat it, with that value or a smaller one (7.1.2.1).
    server_bits = accepted.get(_SERVER_BITS, _MAX_BITS)
    if server_bits > bits:
        named = server_bits if _SERVER_BITS in accepted else "none"
        raise ValueError(f"the server's {_SERVER_BITS} is {named}, and {bits} was asked for")
    if not settings.context_takeover and _SERVER_RESETS not in accepted:
        raise ValueError(f"the server does not repeat {_SERVER_RESETS} (RFC 7692, 7.1.1.1)")
    # The offer promised no more than our bits, so a larger value, or none, changes nothing.
    client_bits = min(bits, accepted.get(_CLIENT_BITS, _MAX_BITS))
    if client_bits < _MIN_BITS:
        raise ValueError(f"the server's {_CLIENT_BITS} is {client_bits}, which zlib can't do")
    return DeflateParameters(
        client_max_window_bits=client_bits,
        server_max_window_bits=server_bits,
        client_no_context_takeover=_CLIENT_RESETS in accepted or not settings.context_takeover,
        server_no_context_takeover=_SERVER_RESETS in accepted,
    )


def _checked(parameters: Parameters, *, is_offer: bool) -> dict[str, int]:
    """The parameters by name (RFC 7692, 7.1): window bits, and 0 for those without a value."""
    checked: dict[str, int] = {}
    for name, value in parameters:
        if name in checked:
            raise ValueError(f"{name} comes twice")
        if name in (_SERVER_RESETS, _CLIENT_RESETS) and value is None:
            checked[name] = 0
        elif name == _CLIENT_BITS and value is None and is_offer:
            checked[name] = _MAX_BITS
        elif name in (_SERVER_BITS, _CLIENT_BITS) and value in _WINDOW_BITS:
            checked[name] = _WINDOW_BITS[value]
        else:
            text = name if value is None else f"{name}={value}"
            raise ValueError(f"{text[:200]!r} is no valid parameter of {_NAME}")
    return checked


# -- messages


class Deflate:
    """Compresses and decompresses the messages of one connection.

    After an exception, the connection is to be failed.
    """

    def __init__(
        self, agreed: DeflateParameters, settings: PerMessageDeflate, *, is_client: bool
    ) -> None:
        """
        :param agreed: What was negotiated.
        :param settings: Our own, for what is not negotiated.
        :param is_client: Whether we are the client.
        """
        client = agreed.client_max_window_bits, agreed.client_no_context_takeover
        server = agreed.server_max_window_bits, agreed.server_no_context_takeover
        ours, theirs = (client, server) if is_client else (server, client)
        #: What was negotiated.
        self.agreed = agreed
        self._settings = settings
        self._deflate_bits, self._deflate_resets = ours
        # Many a peer that agreed to 8 bits has zlib use 9.
        self._inflate_bits, self._inflate_resets = max(theirs[0], _MIN_BITS), theirs[1]
        # They take memory, so they are there only while they are needed.
        self._compressor: zlib._Compress | None = None
        self._decompressor: zlib._Decompress | None = None
        # The message that is inflated: its input, and how much of it zlib has got ...
        self._input = memoryview(b"")
        self._at = 0
        self._slice = _SLICE
        # ... whether the decompressor has something of it, and may have output left, ...
        self._is_begun = False
        self._is_full = False
        # ... whether the input is the last.
        self._is_last = False

    # -- out

    def deflate(self, payload: bytes) -> bytes:
        """Compress a whole message."""
        return self.deflate_piece(payload, is_last=True)

    def deflate_piece(self, data: bytes, *, is_last: bool) -> bytes:
        """Compress the next piece of a message, so that the peer can decompress it by itself.

        :param data: The piece, which may be empty.
        :param is_last: Whether the message ends with it.
        :returns: The next piece of the compressed message, maybe nothing.
        """
        if self._compressor is None:
            self._compressor = zlib.compressobj(
                self._settings.level,
                zlib.DEFLATED,
                -self._deflate_bits,
                self._settings.mem_level,
            )
        if not data and not is_last:
            return b""
        output = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        if not is_last:
            return output
        if self._deflate_resets:
            self._compressor = None
        # Without anything new since the last flush, zlib has nothing to flush.
        return output[: -len(_TAIL)] or _EMPTY

    # -- in

    def inflate(self, payload: bytes, max_size: float) -> bytes:
        """Decompress a whole message.

        :param payload: The compressed message.
        :param max_size: Bytes that it may have decompressed; ``math.inf`` is no limit.
        :raises TooLarge: It has more. No more of them than one were decompressed.
        :raises InvalidData: It is no compressed message.
        """
        message = self.inflate_piece(payload, is_last=True, max_length=_beyond(max_size))
        if len(message) > max_size:
            raise TooLarge(f"the message inflates to more than {max_size} bytes")
        return message

    @property
    def has_more(self) -> bool:
        """Whether there may be more output of the input so far."""
        return self._is_full or self._at < len(self._input) or self._is_last

    def inflate_piece(self, data: bytes, *, is_last: bool, max_length: int) -> bytes:
        """Decompress the next piece of a message, or go on with one that had more output.

        :param data: The piece, which may be empty; it must be if :attr:`has_more`.
        :param is_last: Whether the message ends with it.
        :param max_length: Bytes to return at most; 1 or more.
        :returns: Output, maybe none. If it has ``max_length`` bytes, :attr:`has_more` is true:
            call again with ``b""``. After the last piece, the message has ended when it is false.
        :raises InvalidData: It is no part of a compressed message.
        """
        assert max_length >= 1  # to zlib, 0 is no limit
        if data:
            assert not self.has_more
            self._input = memoryview(data)
            self._at = 0
        self._is_last = self._is_last or is_last
        pieces = []
        room = max_length
        try:
            while room and (self._is_full or self._at < len(self._input)):
                piece = self._inflate_some(room)
                pieces.append(piece)
                room -= len(piece)
            if room:
                self._input = memoryview(b"")
                self._at = 0
                if self._is_last:
                    self._end_message()
        except zlib.error as exc:
            raise InvalidData(f"the message can't be inflated: {exc}") from exc
        return b"".join(pieces)

    def _inflate_some(self, room: int) -> bytes:
        if self._decompressor is None:
            self._decompressor = zlib.decompressobj(-self._inflate_bits)
        data = self._input[self._at : self._at + self._slice]
        self._is_begun = True
        output = self._decompressor.decompress(data, room)
        left = self._decompressor.unconsumed_tail
        self._is_full = len(output) == room
        if self._decompressor.eof:
            # A final block ends a DEFLATE stream, not the message (7.2.3.4). What follows is
            # another stream, with a new window, as senders have it that must end streams.
            left = self._decompressor.unused_data
            self._decompressor = None
            self._is_begun = self._is_full = False
            self._slice = _SMALL_SLICE
        self._at += len(data) - len(left)
        return output

    def _end_message(self) -> None:
        # A message that is empty, or has nothing behind a final block, needs no tail. Neither is
        # quite in order; many send them, and there is only one way to understand them.
        decompressor = self._decompressor
        if decompressor is not None and self._is_begun:
            # Behind the tail, a block may begin. Without this check, a message that was cut off
            # would end in garbage, and so would the next one.
            probe = decompressor if self._inflate_resets else decompressor.copy()
            output = probe.decompress(_TAIL + _FINAL_BLOCK, 1)
            if output or not probe.eof or probe.unused_data:
                raise InvalidData("the message can't be inflated: it is cut off")
            if not self._inflate_resets:
                decompressor.decompress(_TAIL)
        if self._inflate_resets:
            self._decompressor = None
        self._is_begun = self._is_last = False
        self._slice = _SLICE


def _beyond(max_size: float) -> int:
    """The least number of bytes that is over the limit, or the greatest that there is."""
    return int(min(max(max_size, 0), sys.maxsize - 1)) + 1


class DeflateExtension(Extension):
    """Shows wsproto messages decompressed. What is sent, it leaves as it is."""

    name = _NAME

    def __init__(self, codec: Deflate) -> None:
        """:param codec: That of the connection."""
        #: What compresses and decompresses.
        self.codec = codec
        #: Bytes that a message may have decompressed, and those that the latest one has so far.
        self.max_size: float = math.inf
        self.size: int = 0
        # The message under way, and whether the frame under way is a part of it.
        self._in_message = False
        self._is_compressed = False
        self._is_control = False

    def enabled(self) -> bool:
        """Whether wsproto is to use the extension."""
        return True

    def offer(self) -> bool | str:
        """What wsproto would offer. It has no part in the handshake."""
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 # wsproto's signature
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,  # noqa: ARG002 # likewise
    ) -> CloseReason | RsvBits:
        """Look at the head of a frame; wsproto may show the same one several times."""
        self._is_control = opcode.iscontrol()
        is_first = not self._is_control and opcode is not Opcode.CONTINUATION
        if is_first:
            if self._in_message:
                return CloseReason.PROTOCOL_ERROR
            self._is_compressed = rsv.rsv1
            self.size = 0
        return RsvBits(is_first, False, False)  # the bits that may be set

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 # wsproto's signature
        data: bytes,
    ) -> bytes | CloseReason:
        """Decompress a piece of a frame's payload."""
        if self._is_control or not self._is_compressed:
            return data
        left = self.max_size - self.size
        try:
            output = self.codec.inflate_piece(data, is_last=False, max_length=_beyond(left))
        except InvalidData:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        if len(output) > left:
            return CloseReason.MESSAGE_TOO_BIG
        self.size += len(output)
        return output

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 # wsproto's signature
        fin: bool,
    ) -> bytes | CloseReason | None:
        """End a frame, and with a final one the message."""
        if self._is_control:
            return None
        self._in_message = not fin
        if fin and self._is_compressed:
            self._is_compressed = False
            try:
                self.codec.inflate_piece(b"", is_last=True, max_length=1)
            except InvalidData:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return None
