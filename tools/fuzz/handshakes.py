"""Generate requests and responses, valid and invalid."""

from __future__ import annotations

from random import Random
from typing import Callable, List, Sequence

from .mutation import cuts

#: The key in all requests, for which the responses are made.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
#: The Sec-WebSocket-Accept for this key (RFC 6455, 1.3). Raw servers replace it.
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

#: Data that is not HTTP/1.1, or not a request.
PREFACES = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64",
    # a ClientHello of TLS, an alert of TLS, a ClientHello of SSL 2
    b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(range(64)) + b"\x00\x00\x0b\x00\x09",
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
    b"SSH-2.0-OpenSSH_9.7\r\n",
    b"GET /\r\n\r\n",
    b"EHLO example.org\r\n",
    b"\r\n" * 20,
    b"\0" * 50,
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
    b"<policy-file-request/>\0",
    b"\x05\x01\x00",
)

Lines = List[bytes]
_Fault = Callable[[Random, Lines], None]

_LONG, _TOO_LONG = 5000, 70_000  # within the default limit of a head, and over it

_BAD_LENGTHS = (
    *(b"-1", b"+5", b"1e3", b"0x10", b"5, 5", b"5, 6", b"9" * 18, b"9" * 21, b"9" * _LONG, b""),
    *(b" ", b"5 5", b"\xb2", b"1_0", b"18446744073709551616", b"5\r\nContent-Length: 6"),
    *(b"0", b"00", b"00005"),
)
_BAD_CHUNK_SIZES = (
    *(b"-1", b"g", b"", b"f" * 16, b"f" * 20, b"f" * 21, b"f" * _LONG, b"5;" + b"x" * _LONG),
    *(b"0x5", b"+5", b" 5", b"5 "),
)
_METHODS = (
    *(b"POST", b"HEAD", b"CONNECT", b"OPTIONS", b"PRI", b"get", b"", b"G\0T", b"G" * 999),
    *(b"\xc9", b"GET\t", b" GET"),
)
_TARGETS = (
    *(b"*", b"example.org:80", b"", b"//x", b"/\xff", b"/a b", b"?", b"http://", b"ws://"),
    *(b"ws://[::1", b"wss://u:p@x/#f", b"/\0", b"#", b"/%", b"x://a?b", b"x:///"),
    *(b"ws://x.org?y#z", b"/" * _LONG, b"/" + b"x" * _TOO_LONG),
)
_VERSIONS = (
    *(b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/9.9", b"http/1.1", b"HTTP/1"),
    *(b"HTTP/11.1", b"", b"ICY", b"HTTP/1.1 ", b"RTSP/1.0"),
)
_REQUEST_LINES = (*(b"", b" ", b"\0", b"GET", b"GET  /  HTTP/1.1", b"x" * 9000, b"\t", b"A B C D"),)
_STATUS_LINES = (
    *(b"HTTP/1.0 101 OK", b"HTTP/2 101", b"HTTP/1.1 1O1 x", b"HTTP/1.1 101", b"HTTP/1.1  101 x"),
    *(b"HTTP/1.1 1010 x", b"HTTP/1.1 099 x", b"HTTP/1.1 000 x", b"HTTP/1.1 -11 x", b"HTTP/1.1 10"),
    *(b"HTTP/1.1", b"", b"ICY 200 OK", b"HTTP/1.1 100 C", b"HTTP/1.1 200 OK", b"HTTP/1.1 101 \0"),
    *(b"HTTP/1.1 101 \xff", b"HTTP/1.9 101 x", b"HTTP/1.1 \xb1\xb0\xb1 x"),
    b"HTTP/1.1 101 " + b"x" * _TOO_LONG,
)
_NAMES = (
    *(b"Host", b"Upgrade", b"Connection", b"Content-Length", b"Transfer-Encoding", b"Expect"),
    *(b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Sec-WebSocket-Protocol"),
    *(b"Sec-WebSocket-Extensions", b"Sec-WebSocket-Accept", b"X-Y", b"Origin", b"Cookie"),
    *(b"Proxy-Connection", b"Keep-Alive", b"HTTP2-Settings", b"Te", b"Trailer"),
)
_VALUES = (
    *(b"", b" ", b",", b" ,", b"websocket", b"WebSocket, h2c", b"h2c", b"Upgrade", b"close"),
    *(b"keep-alive, Upgrade", b"13", b"8", b"13, 8", b"013", b"-13", b"\xb213"),
    *(KEY, KEY[:-1], b"=" * 24, b"x" * 24, KEY + b"," + KEY, b"\xff" * 24),
    *(ACCEPT, ACCEPT.lower(), ACCEPT + b" "),
    *(b"chat", b"chat, chat", b"c\xfc", b"ch at", b"chat;q=1", b"superchat,chat", b'"chat"'),
    *(b"permessage-deflate", b"permessage-deflate; server_max_window_bits=99", b'x; y="\\'),
    *(b"chunked", b"gzip, chunked", b"CHUNKED", b"identity", b"100-continue"),
    *(b"\0", b"a\0b", b"\x7f", b"\x0b", b"a\x0cb", b"a\rb", b"\xc2\x85", b"\xe2\x80\xa8"),
    *(b"x" * _LONG, b"x" * 2**16, b"," * 20_000, b"a," * 9000),
    *(b"example.org", b"ex\xe4mple.org", b"[::1]:80", b"a b", b"@"),
    *_BAD_LENGTHS,
)
_ODD_HEADERS = (
    *(b"no colon", b": no name", b" folded", b"\tfolded", b"sp ace: x", b"name : x", b"\0: x"),
    *(b"\xff: x", b"x: \0", b"x:\r", b"(x): y", b"", b"x:\x0b", b"\xa0: x", b"Host : x"),
    *(b" Host: x", b"Content-Length : 5", b"x" * _LONG + b": y", b"x" * _TOO_LONG + b": y"),
)
_MANY = (b"x: y", b"a:", b" fold", b"Host: x", b"Sec-WebSocket-Protocol: c", b"Connection: ,")
_ENDS_OF_LINE = (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ")


def request(rng: Random, *, faults: int | None = None) -> bytes:
    """Return a request that opens a connection, with a number of faults; by default, random."""
    faults = _some(rng) if faults is None else faults
    target = rng.choice((b"/", b"/", b"/chat?x=1", b"/a/b%20c", b"ws://x.org/y"))
    lines = [
        b"GET %s HTTP/1.1" % target,
        b"Host: example.org",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
    ]
    if rng.random() < 0.3:
        lines.append(b"Sec-WebSocket-Protocol: chat, superchat")
    if rng.random() < 0.3:
        lines.append(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    if rng.random() < 0.3:
        lines.append(b"Origin: http://example.org")
    return _written(rng, lines, faults, _REQUEST_FAULTS)


def response(rng: Random, *, faults: int | None = None) -> bytes:
    """Return a response that accepts KEY, with a number of faults; by default, random."""
    faults = _some(rng) if faults is None else faults
    lines = [
        b"HTTP/1.1 101 " + rng.choice((b"Switching Protocols", b"", b"OK", b"\xfcber")),
        b"Upgrade: " + rng.choice((b"websocket", b"WebSocket")),
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + ACCEPT,
    ]
    if rng.random() < 0.3:
        lines.append(b"Server: x")
    return _written(rng, lines, faults, _RESPONSE_FAULTS)


def rejection(rng: Random) -> bytes:
    """Return a response with another status than 101, and a body."""
    status = rng.choice((200, 204, 301, 304, 400, 401, 403, 404, 500, 503, 599, 999, 100, 103, 199))
    body = rng.choice((b"", b"no", b"x" * 999, b"x" * 1000, b"\r\n" * 40, b"x" * _TOO_LONG))
    lines = [rng.choice((b"HTTP/1.1 %d No", b"HTTP/1.1 %d No", b"HTTP/1.0 %d")) % status]
    kind = rng.randrange(4)
    if kind == 0:
        is_right = rng.random() < 0.3
        length = b"%d" % len(body) if is_right else rng.choice(_BAD_LENGTHS)
        lines.append(b"Content-Length: " + length)
    elif kind == 1:
        lines.append(b"Transfer-Encoding: chunked")
        body = _chunked(rng, body)
    elif kind == 2:
        lines += [b"Transfer-Encoding: chunked", b"Content-Length: 5"]
    return _written(rng, lines, _some(rng), _RESPONSE_FAULTS) + body


def _chunked(rng: Random, body: bytes) -> bytes:
    data = b""
    for piece in cuts(rng, body, rng.randrange(6)):
        size = rng.choice((b"%x", b"%X", b"000%x", b"%x;ext=1", b'%x ;a="b"')) % len(piece)
        if rng.random() < 0.1:
            size = rng.choice(_BAD_CHUNK_SIZES)
        data += size + b"\r\n" + piece + b"\r\n"
    ends = (b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"", b"0\r\n", b"-1")
    return data + rng.choice(ends)


def _some(rng: Random) -> int:
    return rng.choice((0, 0, 1, 1, 1, 1, 2, 3))


def _written(rng: Random, lines: Lines, faults: int, kinds: Sequence[_Fault]) -> bytes:
    _vary(rng, lines)
    for _ in range(faults):
        rng.choice(kinds)(rng, lines)
    end = rng.choice(_ENDS_OF_LINE) if faults and rng.random() < 0.1 else b"\r\n"
    return end.join(lines) + end + end


def _vary(rng: Random, lines: Lines) -> None:
    """Vary the headers as HTTP allows: their order, case and white space."""
    headers = lines[1:]
    if rng.random() < 0.3:
        rng.shuffle(headers)
    for index, header in enumerate(headers):
        if rng.random() < 0.1:
            name, _, value = header.partition(b":")
            name = rng.choice((name.lower(), name.upper(), name.swapcase()))
            value = rng.choice((b"", b" ", b"\t", b"   ")) + value.strip() + rng.choice((b"", b" "))
            headers[index] = name + b":" + value
    lines[1:] = headers


def _place(rng: Random, lines: Lines) -> int:
    return rng.randrange(1, len(lines)) if len(lines) > 1 else 0


def _drop(rng: Random, lines: Lines) -> None:
    if len(lines) > 1:
        del lines[_place(rng, lines)]


def _repeat(rng: Random, lines: Lines) -> None:
    lines.insert(_place(rng, lines), lines[_place(rng, lines)])


def _add(rng: Random, lines: Lines) -> None:
    header = rng.choice(_NAMES) + b": " + rng.choice(_VALUES)
    lines.insert(_place(rng, lines), header)


def _change(rng: Random, lines: Lines) -> None:
    at = _place(rng, lines)
    lines[at] = lines[at].partition(b":")[0] + b": " + rng.choice(_VALUES)


def _add_odd(rng: Random, lines: Lines) -> None:
    lines.insert(_place(rng, lines), rng.choice(_ODD_HEADERS))


def _add_many(rng: Random, lines: Lines) -> None:
    number = rng.choice((100, 1000)) if rng.random() < 0.9 else 10_000
    at = _place(rng, lines)
    lines[at:at] = [rng.choice(_MANY)] * number


def _change_request_line(rng: Random, lines: Lines) -> None:
    method, _, rest = lines[0].partition(b" ")
    target, _, version = rest.rpartition(b" ")
    lines[0] = rng.choice(
        (
            b" ".join((rng.choice(_METHODS), target, version)),
            b" ".join((method, rng.choice(_TARGETS), version)),
            b" ".join((method, target, rng.choice(_VERSIONS))),
            rng.choice(_REQUEST_LINES),
        )
    )


def _change_status_line(rng: Random, lines: Lines) -> None:
    lines[0] = rng.choice(_STATUS_LINES)


_FAULTS = (
    *(_drop, _drop, _repeat, _add, _add, _add, _change, _change, _add_odd),
    *(_drop, _drop, _repeat, _add, _add, _add, _change, _change, _add_many),
)
_REQUEST_FAULTS = (*_FAULTS, _change_request_line, _change_request_line)
_RESPONSE_FAULTS = (*_FAULTS, _change_status_line, _change_status_line)
