"""Run the programs in examples/ as separate processes, over loopback sockets."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import trio

import trio_websocket
from examples import chat_server, demo
from examples.demo import Program, run_example
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    WebSocketServer,
    open_websocket_url,
    wrap_client_stream,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

posix_signals = pytest.mark.skipif(os.name != "posix", reason="a signal would kill the example")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the examples import the package under test, and treat warnings as errors."""
    monkeypatch.setenv("PYTHONPATH", str(Path(trio_websocket.__file__).parent.parent))
    monkeypatch.setenv("PYTHONWARNINGS", "error,ignore:Python 3.8 is no longer supported")


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example that ends by itself."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


async def start_echo_server(server: Program) -> str:
    return await server.expect(r"Echo server at (wss?://127\.0\.0\.1:\d+/?)")


def test_demo_shows_each_step_and_succeeds() -> None:
    result = run("demo.py")
    assert result.stderr == ""
    assert result.returncode == 0
    for shown in (
        r"client > received: 'Hello, Trio!'",
        r"client > received: binary 0001feff",
        r"client > pong after [\d.]+ ms",
        r"server > .* closed, .*code=1000, .*that was the demo.*",
        r"server ended with status 0",
        r"The demo worked\.",
    ):
        assert re.search(f"^{shown}$", result.stdout, re.MULTILINE), shown


@pytest.mark.parametrize(
    ("server", "complaint"),
    [
        ("print('Hello')", "expected 'Echo server at"),
        ("raise SystemExit", "the server ended before the end of the demo"),
        ("import time; time.sleep(60)", "no output within 0.3 s"),
    ],
)
def test_demo_fails_says_why(
    server: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "echo_server.py").write_text(server)
    monkeypatch.setattr(demo, "EXAMPLES", tmp_path)
    monkeypatch.setattr(demo, "STEP_TIMEOUT", 0.3 if "sleep" in server else 60)
    assert demo.main() == 1
    assert complaint in capsys.readouterr().err


async def test_tls_with_the_certificates_of_the_script(tmp_path: Path) -> None:
    made = await trio.to_thread.run_sync(run, "make_certificates.py", str(tmp_path))
    assert made.returncode == 0, made.stderr
    ca = str(tmp_path / "ca.pem")
    if os.name == "posix":
        assert (tmp_path / "server.pem").stat().st_mode & 0o077 == 0
    async with run_example(
        "server", "echo_server.py", "--port", "0", "--tls", str(tmp_path)
    ) as server:
        url = await start_echo_server(server)
        assert url.startswith("wss:")
        async with run_example("client", "client.py", url, "--ca", ca) as client:
            await client.expect("connected to .*")
            await client.command("send secret")
            await client.expect("received: 'secret'")
            await client.command("close 4000 bye")
            await client.expect("closed: .*code=4000, .*")
            await client.expect_end()
        stranger = await trio.to_thread.run_sync(run, "client.py", url)
    assert stranger.returncode == 1
    assert stranger.stderr.startswith("Connection attempt failed: ")
    assert "certificate" in stranger.stderr.lower()


def test_certificates_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "server.pem").write_text("precious")
    result = run("make_certificates.py", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("Can't write the certificates: ")
    assert [path.name for path in tmp_path.iterdir()] == ["server.pem"]
    assert (tmp_path / "server.pem").read_text() == "precious"


async def test_client_wrong_input_goes_on() -> None:
    async with run_example("server", "echo_server.py", "--port", "0") as server:
        url = await start_echo_server(server)
        async with run_example("client", "client.py", url) as client:
            await client.expect("connected to .*")
            await client.command("binary 0")
            await client.expect("not sent: .*")
            await client.command("close normally")
            await client.expect("not sent: .*")
            await client.command("close 999")
            await client.expect("not sent: .*")
            await client.command("hello")
            await client.expect("send TEXT  .*")


async def test_client_ends_with_its_input() -> None:
    async with run_example("server", "echo_server.py", "--port", "0") as server:
        url = await start_echo_server(server)
        result = await trio.to_thread.run_sync(run, "client.py", url)
    assert result.returncode == 0
    assert re.fullmatch("connected to .*\nclosed: .*code=1000, .*\n", result.stdout)


@posix_signals
async def test_client_server_ends_during_input_ends() -> None:
    async with run_example("server", "echo_server.py", "--port", "0") as server:
        url = await start_echo_server(server)
        async with run_example("client", "client.py", url) as client:
            await client.expect("connected to .*")
            await server.expect(".* open")
            await server.stop()
            await client.expect("closed: .*code=1001, .*")
            await client.expect_end()


@posix_signals
async def test_client_at_ctrl_c_tells_the_server() -> None:
    async with run_example("server", "echo_server.py", "--port", "0") as server:
        url = await start_echo_server(server)
        async with run_example("client", "client.py", url) as client:
            await client.expect("connected to .*")
            await client.stop(signal.SIGINT)
        await server.expect(".* open")
        await server.expect(".* closed, .*code=1001, .*")


def test_client_says_why_it_can_not_connect() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = run("client.py", f"ws://127.0.0.1:{unused.getsockname()[1]}")
    assert result.returncode == 1
    assert result.stderr.startswith("Connection attempt failed: ")
    assert "refused" in result.stderr.lower()


def test_bad_arguments_are_explained() -> None:
    assert run("client.py", "http://127.0.0.1").stderr.startswith("Bad URL: ")
    assert "can't use" in run("client.py", "wss://127.0.0.1", "--ca", "missing.pem").stderr
    assert "can't use" in run("echo_server.py", "--tls", "missing.pem").stderr


@pytest.mark.parametrize(
    ("script", "complaint"),
    [("echo_server.py", "Can't listen on 127.0.0.1, port "), ("chat_server.py", "Can't serve: ")],
)
def test_servers_say_that_their_port_is_taken(script: str, complaint: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run(script, "--port", str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert result.stderr.startswith(complaint)
    assert "in use" in result.stderr


def fetch(url: str) -> str:
    with urlopen(url, timeout=60) as response:
        assert response.headers.get_content_type() == "text/html"
        page: bytes = response.read()
        return page.decode()


async def expect_lines(ws: WebSocketConnection, *lines: str) -> None:
    with trio.fail_after(30):
        assert [await ws.get_message() for _ in lines] == list(lines)


async def read_to_end(ws: WebSocketConnection) -> int:
    """Return the close code."""
    with trio.fail_after(30), suppress(ConnectionClosed):
        while True:
            await ws.get_message()
    assert ws.closed is not None
    return ws.closed.code


async def test_chat_room() -> None:
    async with run_example("server", "chat_server.py", "--port", "0", "--page-port", "0") as server:
        page_url, _, url = (await server.expect("Chat page at (.*)")).partition(", WebSocket at ")
        page = await trio.to_thread.run_sync(fetch, page_url)
        assert url.rpartition("127.0.0.1")[2].rstrip("/") in page
        with pytest.raises(HTTPError, match="404") as missing:
            await trio.to_thread.run_sync(fetch, page_url + "favicon.ico")
        missing.value.close()
        async with open_websocket_url(
            url, extra_headers=[(b"Origin", page_url.rstrip("/").encode())]
        ) as ann:
            await ann.send_message("  Ann\n")
            await expect_lines(ann, "Ann joined, 1 here")
            async with open_websocket_url(url) as ben:
                await ben.send_message(b"Ben")
                await expect_lines(ben, "Ben joined, 2 here")
                await expect_lines(ann, "Ben joined, 2 here")
                await ann.send_message("hello")
                await expect_lines(ann, "Ann: hello")
                await expect_lines(ben, "Ann: hello")
            await expect_lines(ann, "Ben left, 1 here")
            if os.name == "posix":
                await server.stop()
                assert await read_to_end(ann) == 1001


@pytest.mark.parametrize("origin", [b"http://evil.example", b"null", b"http://[", b"\xff"])
async def test_chat_room_turns_away_pages_of_other_sites(origin: bytes) -> None:
    room = chat_server.Room()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = await nursery.start(WebSocketServer(room.welcome, listeners).run)
        with pytest.raises(ConnectionRejected) as rejected:
            async with open_websocket_url(
                f"ws://127.0.0.1:{server.port}", extra_headers=[(b"Origin", origin)]
            ):
                pass
        assert rejected.value.status_code == 403
        nursery.cancel_scope.cancel()


async def test_slow_member_leaves_the_chat_room_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_server, "LINE_INTERVAL", 0)
    room = chat_server.Room()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    # Small buffers are full soon.
    listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    slow_socket = trio.socket.socket()
    slow_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with trio.open_nursery() as nursery:
        # The client `slow` never reads, so its handler ends after disconnect_timeout.
        serve = WebSocketServer(room.welcome, listeners, disconnect_timeout=1).run
        server = await nursery.start(serve)
        await slow_socket.connect(("127.0.0.1", server.port))
        slow = await wrap_client_stream(
            nursery, trio.SocketStream(slow_socket), f"127.0.0.1:{server.port}", "/"
        )
        await slow.send_message("Slow")
        await expect_lines(slow, "Slow joined, 1 here")
        async with open_websocket_url(f"ws://127.0.0.1:{server.port}") as ann:
            await ann.send_message("Ann")
            await expect_lines(ann, "Ann joined, 2 here")
            line = "x" * 4000
            heard = f"Ann: {line}"
            while heard == f"Ann: {line}":
                with trio.fail_after(30):
                    await ann.send_message(line)
                    heard = str(await ann.get_message())
            assert heard == "Slow left, 1 here"
            assert await read_to_end(slow) in (1006, 1008)  # it may be too slow even for the Close
        nursery.cancel_scope.cancel()
