"""A client follows redirects, over streams in memory."""

from __future__ import annotations

import base64
import re
from typing import Any, Callable

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from support.peer import accepting, read_head
from support.tasks import Call
from trio_websocket import (
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    PerMessageDeflate,
    RedirectError,
    WebSocketConnection,
    _impl,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
)

Answer = Callable[[bytes], bytes]
FIRST = "ws://a.example/one"


def redirect(location: str, status: int = 302, body: bytes = b"") -> Answer:
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: {len(body)}"
    return lambda request: head.encode() + b"\r\n\r\n" + body


class Network:
    """Servers in memory. Each answers one request per stream, and then waits for the end."""

    def __init__(self, nursery: trio.Nursery, **answers: Answer) -> None:
        """:param answers: The answers by the path of the request; other requests are accepted."""
        self.nursery = nursery
        self.answers = answers
        self.requests: list[bytes] = []
        self.ends: list[tuple[str, int]] = []
        self.open_streams = 0
        self.delay = 0.0

    async def open(self, host: str, port: int) -> trio.abc.Stream:
        """Open a stream: the option `stream`."""
        await wait_all_tasks_blocked()
        assert not self.open_streams, "the stream before is still open"
        await trio.sleep(self.delay)
        self.ends.append((host, port))
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self._serve, theirs)
        self.open_streams += 1
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        request, _ = await read_head(stream)
        self.requests.append(request)
        path = request.split()[1].decode().strip("/").partition("?")[0]
        await stream.send_all(self.answers.get(path, accepting)(request))
        await stream.receive_some()  # a Close frame, or the end
        self.open_streams -= 1
        await stream.aclose()

    async def connect(self, url: str = FIRST, **keywords: Any) -> WebSocketConnection:
        keywords.setdefault("max_redirects", 5)
        return await connect_websocket_url(self.nursery, url, stream=self.open, **keywords)

    def header(self, name: bytes) -> list[bytes | None]:
        """Return the values of a header, which may be None, in all requests."""
        heads = [request.lower().split(b"\r\n") for request in self.requests]
        found = [dict(line.split(b": ", 1) for line in head[1:] if line) for head in heads]
        return [fields.get(name) for fields in found]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_connect_redirect_is_followed(nursery: trio.Nursery, status: int) -> None:
    network = Network(nursery, one=redirect("http://b.example:8000/two?x#y", status))
    ws = await network.connect()
    assert network.ends == [("a.example", 80), ("b.example", 8000)]
    assert network.header(b"host") == [b"a.example", b"b.example:8000"]
    assert ws.url == "ws://b.example:8000/two?x"
    assert ws.path == "/two?x"


async def test_connect_redirect_to_address_and_idn(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("//[::1]:1/two"), two=redirect("//fa%C3%9F.example"))
    ws = await network.connect()
    assert network.ends == [("a.example", 80), ("::1", 1), ("xn--fa-hia.example", 80)]
    assert network.header(b"host") == [b"a.example", b"[::1]:1", b"xn--fa-hia.example"]
    assert ws.url == "ws://xn--fa-hia.example/"


async def test_connect_redirect_by_default_is_rejection(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("/two", 301, b"over there"))
    with pytest.raises(ConnectionRejected) as caught:
        await network.connect(max_redirects=0)
    assert type(caught.value) is ConnectionRejected
    assert (caught.value.status_code, caught.value.body) == (301, b"over there")
    assert (b"location", b"/two") in caught.value.headers


async def test_connect_max_redirects_counts_redirects(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("/two"), two=redirect("/three"))
    assert (await network.connect(max_redirects=2)).url == "ws://a.example/three"


async def test_connect_over_max_redirects_raises(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("/two"), two=redirect("/three", 307, b"there"))
    with pytest.raises(RedirectError, match="max_redirects=1") as caught:
        await network.connect("ws://user:secret@a.example/one", max_redirects=1)
    exc = caught.value
    assert exc.urls == ("ws://a.example/one", "ws://a.example/two")
    assert (exc.status_code, exc.body) == (307, b"there")
    await wait_all_tasks_blocked()
    assert network.open_streams == 0


async def test_connect_redirect_in_circle_raises(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("ws://b.example/two"), two=redirect(FIRST))
    with pytest.raises(RedirectError, match=f"leads back to {re.escape(FIRST)} ") as caught:
        await network.connect()
    assert caught.value.urls == (FIRST, "ws://b.example/two")


async def test_connect_rejection_after_redirect_is_raised(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("/two"), two=redirect("", 403, b"no"))
    with pytest.raises(ConnectionRejected) as caught:
        await network.connect()
    assert type(caught.value) is ConnectionRejected
    assert caught.value.status_code == 403


async def test_connect_failure_after_redirect_names_that_server(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("ws://b.example:8000/"))

    async def open_once(host: str, port: int) -> trio.abc.Stream:
        if network.ends:
            raise ConnectionRefusedError
        return await network.open(host, port)

    with pytest.raises(ConnectionFailed, match=r"can't connect to b\.example, port 8000"):
        await connect_websocket_url(nursery, FIRST, stream=open_once, max_redirects=1)


# What another origin gets


async def test_connect_redirect_same_origin_keeps_headers(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("//A.EXAMPLE:80/two"))
    await network.connect("ws://user:secret@a.example/one", extra_headers=[(b"X-Key", b"1")])
    assert network.header(b"x-key") == [b"1", b"1"]
    token = b"Basic " + base64.b64encode(b"user:secret")
    assert network.header(b"authorization") == [token.lower()] * 2


@pytest.mark.parametrize(
    "location", ["ws://b.example/two", "ws://a.example:8000/two", "//user:other@b.example/two"]
)
async def test_connect_redirect_other_origin_gets_no_headers(
    nursery: trio.Nursery, location: str
) -> None:
    network = Network(nursery, one=redirect(location), two=redirect(f"{FIRST}?back"))
    network.answers["one"] = lambda request: (
        accepting(request) if b"?back" in request else redirect(location)(request)
    )
    headers = [(b"X-Key", b"1"), (b"Cookie", b"2"), (b"Host", b"other"), (b"Origin", b"3")]
    ws = await network.connect("ws://user:secret@a.example/one", extra_headers=headers)
    assert ws.url == f"{FIRST}?back"
    for name in (b"authorization", b"cookie", b"x-key", b"origin"):
        first, *others = network.header(name)
        assert first is not None
        assert others == [None, None]  # also not when it leads back to the first origin
    assert network.header(b"host")[::2] == [b"other", b"a.example"]


async def test_connect_redirect_other_origin_keeps_offers(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("ws://b.example/two"))
    await network.connect(
        subprotocols=iter(["chat"]), compression=PerMessageDeflate(), extra_headers=iter([])
    )
    assert network.header(b"sec-websocket-protocol") == [b"chat", b"chat"]
    first, second = network.header(b"sec-websocket-extensions")
    assert first == second is not None
    keys = network.header(b"sec-websocket-key")
    assert len(set(keys)) == 2


# Transports


async def test_connect_redirect_over_open_stream_raises(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("/two"))
    stream = await network.open("a.example", 80)
    with pytest.raises(RedirectError, match="the open stream can't be used again"):
        await connect_websocket_url(nursery, FIRST, stream=stream, max_redirects=5)
    await wait_all_tasks_blocked()
    assert network.open_streams == 0


async def test_open_websocket_follows_redirects(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("/two"))
    async with open_websocket(
        "a.example",
        80,
        "one",
        use_ssl=False,
        stream=network.open,
        max_redirects=1,
    ) as ws:
        assert ws.url == "ws://a.example/two"


# Time


async def test_connect_timeout_covers_all_redirects(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    answers = {str(number): redirect(f"/{number + 1}") for number in range(99)}
    network = Network(nursery, **answers)
    network.delay = 3
    start = trio.current_time()
    with pytest.raises(ConnectionTimeout, match=r"no connection to a\.example within 10 s"):
        await network.connect("ws://a.example/0", connect_timeout=10, max_redirects=99)
    assert trio.current_time() - start == 10
    assert len(network.requests) == 3
    await wait_all_tasks_blocked()
    assert network.open_streams == 0


async def test_connect_cancelled_between_redirects_leaves_no_stream(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    network = Network(nursery, one=redirect("/two"))
    network.delay = 3
    connecting = Call(nursery, network.connect)
    await trio.sleep(5)
    await connecting.cancel()
    await wait_all_tasks_blocked()
    assert network.open_streams == 0
    assert len(network.requests) == 1


async def test_redirect_with_body_of_any_size_is_followed(nursery: trio.Nursery) -> None:
    network = Network(nursery, one=redirect("/two", body=bytes(2**20)))
    assert (await network.connect(max_rejection_body=100)).url == "ws://a.example/two"


# Stand-ins of tests


async def test_stand_in_for_connect_websocket_sees_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[tuple[object, ...], dict[str, Any]]] = []

    async def stand_in(nursery: trio.Nursery, *args: object, **keywords: Any) -> None:
        calls.append((args, keywords))
        raise ConnectionRejected(302, ((b"location", b"/two"),), b"")

    monkeypatch.setattr(_impl, "connect_websocket", stand_in)
    with pytest.raises(ConnectionRejected) as caught:
        async with open_websocket_url(FIRST, max_redirects=3):
            pytest.fail("it is not open")
    assert type(caught.value) is ConnectionRejected
    ((args, keywords),) = calls
    assert args == ("a.example", 80, "/one")
    assert keywords["max_redirects"] == 3
