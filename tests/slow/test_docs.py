"""Run every code block of the README and the docs, as printed, and check tables, names and links.

A comment above a Python block says how to run it: `<!-- test: KIND [ARGUMENT] -->`.

    program PEER    a whole program: run it with its own interpreter against PEER until it ends. If
                    the next block of the page has the language "text", that is the expected output
    client PEER     a whole program that runs until it has printed the next block, whose language is
                    "text": run it against PEER
    server [PATH]   a whole program that serves until it is killed. It must echo at PATH: the path
                    of a URL, or, without a slash, of a Unix-domain socket
    fragment PEER   run inside a function. The names `trio` and `nursery` are defined; `ws`, if it
                    is used, is a connection to PEER
    handler         defines `handler(request)`, which must echo
    request         run inside a handler. The name `request` is defined

The port 8000 in a block is replaced by the port of the peer. PEER is a key of `PEERS`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import os
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator, NamedTuple

import pytest
import trio
import trustme

import trio_websocket
from docs import pictures
from support.proxies import start_proxy
from support.relay import RELAY
from trio_websocket import (
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket_url,
    open_websocket_url,
    serve_websocket,
    wrap_client_stream,
)
from trio_websocket._client.options import ClientOptions
from trio_websocket._sansio.options import Options

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "autobahn/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# The sections of docs/limits.md with a table of options, and the class that declares the options.
OPTIONS: dict[str, type[Options]] = {"Options": Options, "Options of clients": ClientOptions}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
PACKAGE_HOME = str(Path(trio_websocket.__file__).resolve().parent.parent)
TIMEOUT = 25
FENCED = re.compile(
    r"(?:^<!-- test: (?P<how>[^\n]*?) -->\n+)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    how: str
    text: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def on_port(self, port: int) -> str:
        return re.sub(r"\b8000\b", str(port), self.text)

    def code(self, port: int) -> Any:
        """Compile the block so that a traceback shows the page and its line."""
        source = "\n" * (self.line - 1) + self.on_port(port)
        return compile(source, str(self.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    matches = list(FENCED.finditer(text))
    following = [m["text"] if m["language"] == "text" else None for m in matches[1:]]
    return [
        Block(
            page,
            text.count("\n", 0, match.start("text")) + 1,
            match["language"],
            match["how"] or "",
            match["text"],
            output,
        )
        for match, output in zip(matches, [*following, None])
    ]


PYTHON = [block for page in PAGES for block in blocks_of(page) if block.language == "python"]


# Peers: the servers at the port that replaces 8000.


async def echo(request: WebSocketRequest) -> None:
    protocols = request.proposed_subprotocols
    ws = await request.accept(subprotocol=protocols[0] if protocols else None)
    while True:
        await ws.send_message(await ws.get_message())


async def feed(request: WebSocketRequest) -> None:
    """Take one message, send three, and close."""
    ws = await request.accept()
    await ws.get_message()
    for number in range(1, 4):
        await ws.send_message(f"message {number}")


async def leave(request: WebSocketRequest) -> None:
    """Take one message, and close with a reason."""
    ws = await request.accept()
    await ws.get_message()
    await ws.aclose(4001, "out of credit")


async def flood(request: WebSocketRequest) -> None:
    """Send a message of 1 MiB."""
    ws = await request.accept()
    await ws.send_message(bytes(2**20))


async def moved(request: WebSocketRequest) -> None:
    """Redirect from /old to /new."""
    if request.path == "/old":
        await request.reject(301, extra_headers=[(b"Location", b"/new")])
    else:
        await echo(request)


async def refuse(request: WebSocketRequest) -> None:
    await request.reject(403, body=b"no entry")


class Restarting:
    """Serve each client with the next handler, and the last one with all further clients."""

    def __init__(self, *handlers: Callable[[WebSocketConnection], Awaitable[None]]) -> None:
        self._handlers = list(handlers)

    async def __call__(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        handler = self._handlers.pop(0) if len(self._handlers) > 1 else self._handlers[0]
        await handler(ws)


def news(*messages: str) -> Callable[[WebSocketConnection], Awaitable[None]]:
    """Take one message, send some, and return, which closes the connection."""

    async def run(ws: WebSocketConnection) -> None:
        await ws.get_message()
        for message in messages:
            await ws.send_message(message)

    return run


async def news_after(ws: WebSocketConnection) -> None:
    """Send two of the messages after the one that the client names."""
    request = str(await ws.get_message())
    texts = ["first", "second", "third"]
    first = int(request.replace("after ", ""))
    for number, text in list(enumerate(texts, 1))[first : first + 2]:
        await ws.send_message(f"{number} {text}")


async def confirm(ws: WebSocketConnection) -> None:
    while True:
        await ws.send_message(f"got {await ws.get_message()!s}")


async def confirm_once(ws: WebSocketConnection) -> None:
    await ws.send_message(f"got {await ws.get_message()!s}")
    await ws.get_message()


def certificates(folder: Path) -> ssl.SSLContext:
    """Write ca.pem, server.pem, server.key and client.pem to the folder."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = authority.issue_cert("localhost", "127.0.0.1")
    server.private_key_pem.write_to_path(str(folder / "server.key"))
    for number, pem in enumerate(server.cert_chain_pems):
        pem.write_to_path(str(folder / "server.pem"), append=number > 0)
    authority.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "client.pem")
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.configure_cert(context)
    return context


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[WebSocketRequest], Awaitable[None]],
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handler, "127.0.0.1", 0, ssl_context)
        yield server.port
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def nobody() -> AsyncIterator[int]:
    yield free_port()


@contextlib.asynccontextmanager
async def silence() -> AsyncIterator[int]:
    """Accept the connection and send nothing."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@contextlib.asynccontextmanager
async def unix() -> AsyncIterator[int]:
    """Run the echo server on the Unix-domain socket chat.sock, without a port."""
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind("chat.sock")
        listener.listen()
        async with trio.open_nursery() as nursery:
            await nursery.start(WebSocketServer(echo, [trio.SocketListener(listener)]).run)
            yield 0
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def certified() -> AsyncIterator[int]:
    """Write certificates. The program is its own server."""
    certificates(Path.cwd())
    yield free_port()


@contextlib.asynccontextmanager
async def ssh() -> AsyncIterator[int]:
    """Run the echo server, and replace the command `ssh` by one that knows only `-W`."""
    relay = Path("ssh")
    relay.write_text(f"#!{sys.executable}\n{RELAY}", "utf-8")
    relay.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path.cwd()), prepend=os.pathsep)
        async with serving(echo) as port:
            yield port


@contextlib.asynccontextmanager
async def proxied() -> AsyncIterator[int]:
    """Run the echo server and an HTTP proxy that leads to it."""
    async with serving(echo) as port, trio.open_nursery() as nursery:
        proxy = await start_proxy(nursery, "http", relay_to=port)
        yield proxy.port
        nursery.cancel_scope.cancel()


PEERS: dict[str, Callable[[], Any]] = {
    "proxied": proxied,
    "echo": lambda: serving(echo),
    "feed": lambda: serving(feed),
    "leave": lambda: serving(leave),
    "flood": lambda: serving(flood),
    "moved": lambda: serving(moved),
    "refuse": lambda: serving(refuse),
    "nobody": nobody,
    "silence": silence,
    "unix": unix,
    "ssh": ssh,
    "certificates": certified,
    "restart": lambda: serving(Restarting(news("message 1", "message 2"), news("message 3"))),
    "resume": lambda: serving(Restarting(news_after)),
    "confirm": lambda: serving(Restarting(confirm_once, confirm)),
    "tls": lambda: serving(echo, certificates(Path.cwd())),
}


# Kinds of block.


async def evaluate(block: Block, port: int, names: dict[str, Any]) -> None:
    code = block.code(port)
    result = eval(code, names)
    if code.co_flags & inspect.CO_COROUTINE:
        await result


async def output_of(source: str) -> str:
    Path("program.py").write_text(source, "utf-8")
    done = await trio.run_process(
        [sys.executable, "-W", "error", "program.py"],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        env={**os.environ, "PYTHONPATH": PACKAGE_HOME, "PYTHONIOENCODING": "utf-8"},
    )
    output: str = done.stdout.decode("utf-8")
    assert done.returncode == 0, output
    return output


async def program(block: Block, peer: str) -> None:
    async with PEERS[peer]() as port:
        output = await output_of(block.on_port(port))
        if block.output is not None:
            assert output == block.output.replace("8000", str(port))


async def client(block: Block, peer: str) -> None:
    assert block.output is not None
    output, received = block.output.encode(), b""
    async with PEERS[peer]() as port:
        Path("program.py").write_text(block.on_port(port), "utf-8")
        process = await trio.lowlevel.open_process(
            [sys.executable, "-u", "-W", "error", "program.py"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": PACKAGE_HOME, "PYTHONIOENCODING": "utf-8"},
        )
        assert process.stdout is not None
        async with process.stdout:
            try:
                while output.startswith(received) and received != output:
                    received += await process.stdout.receive_some()
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
    assert received == output


async def server(block: Block, path: str = "/") -> None:
    certificates(Path.cwd())
    port = free_port()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output_of, block.on_port(port))
        while True:
            try:
                await must_echo(port, path, tls="ssl." in block.text)
                break
            except OSError:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def connected(port: int, path: str, tls: bool) -> AsyncIterator[WebSocketConnection]:
    if path.startswith("/"):
        context = ssl.create_default_context(cafile="ca.pem") if tls else None
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}{path}"
        async with open_websocket_url(url, context) as ws:
            yield ws
    else:
        stream = await trio.open_unix_socket(path)
        async with trio.open_nursery() as nursery, await wrap_client_stream(
            nursery, stream, "localhost", "/"
        ) as ws:
            yield ws


async def must_echo(port: int, path: str = "/", tls: bool = False) -> None:
    async with connected(port, path, tls) as ws:
        for message in ("hello", b"world"):
            await ws.send_message(message)
            assert await ws.get_message() == message


async def fragment(block: Block, peer: str) -> None:
    async with PEERS[peer]() as port, trio.open_nursery() as nursery:
        names: dict[str, Any] = {"trio": trio, "trio_websocket": trio_websocket, "nursery": nursery}
        if "ws" in block.code(port).co_names and "ws:" not in block.text:
            names["ws"] = await connect_websocket_url(nursery, f"ws://127.0.0.1:{port}/")
        await evaluate(block, port, names)
        nursery.cancel_scope.cancel()


async def handler(block: Block) -> None:
    names: dict[str, Any] = {}
    await evaluate(block, 0, names)
    async with serving(names["handler"]) as port:
        await must_echo(port)


async def request(block: Block) -> None:
    done = trio.Event()

    async def handle(request: WebSocketRequest) -> None:
        await evaluate(block, 0, {"trio": trio, "request": request})
        done.set()

    async with serving(handle) as port:
        with contextlib.suppress(trio_websocket.HandshakeError, trio_websocket.ConnectionClosed):
            async with open_websocket_url(f"ws://127.0.0.1:{port}/", subprotocols=["chat"]) as ws:
                await must_close(ws)
        await done.wait()


async def must_close(ws: WebSocketConnection) -> None:
    await ws.send_message("hello")
    while True:
        await ws.get_message()


KINDS: dict[str, Callable[..., Awaitable[None]]] = {
    "program": program,
    "client": client,
    "server": server,
    "fragment": fragment,
    "handler": handler,
    "request": request,
}


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert block.how, f"{block} lacks its '<!-- test: … -->'"
    kind, *arguments = block.how.split()

    async def run() -> None:
        with trio.fail_after(TIMEOUT):
            await KINDS[kind](block, *arguments)

    trio.run(run)


@each_page
def test_commands_name_what_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([\w-]+):", makefile, re.MULTILINE)
    shell = "".join(block.text for block in blocks_of(page) if block.language == "sh")
    named = re.findall(r"^make ([\w-]+)", shell, re.MULTILINE) + re.findall(r"`make ([\w-]+)", text)
    assert set(named) <= set(targets)
    for path in re.findall(r"\b(?:autobahn|examples|support|tests|tools)/[\w/.-]*\w", text):
        is_left_out = path.startswith("tools/") and not (ROOT / "tools").exists()  # in an sdist
        assert is_left_out or (ROOT / path).exists(), path
    for path in re.findall(r"(?<![\w/])_[a-z]+/\w+\.(?:py|c)\b", text):
        assert (ROOT / "trio_websocket" / path).exists(), path


@each_page
def test_every_fence_was_found(page: Path) -> None:
    fences = re.findall(r"^[ \t]*```", page.read_text("utf-8"), re.MULTILINE)
    blocks = blocks_of(page)
    assert len(fences) == 2 * len(blocks)


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(function).parameters.values()}


def test_options_table_shows_every_option_and_its_default() -> None:
    shown: dict[str, str] = {}
    taken = keywords(trio_websocket.open_websocket_url)
    for title in OPTIONS:
        section = options_section(title)
        rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))
        shown.update(rows)
        for name in re.findall(r"`(\w+)`", section.split("\n| ")[0]):
            having = keywords(getattr(trio_websocket, name))
            assert {row: taken[row] for row in rows}.items() <= having.items(), name
    for other in ("url", "ssl_context", "subprotocols", "extra_headers"):
        del taken[other]
    assert shown == {name: str(default) for name, default in taken.items()}


@pytest.mark.parametrize("title", OPTIONS)
def test_options_table_says_what_the_declarations_say(title: str) -> None:
    without_links = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", options_section(title))
    rows = [line.rstrip(" |") for line in without_links.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(declared_rows(OPTIONS[title]))


def options_section(title: str) -> str:
    text = (ROOT / "docs" / "limits.md").read_text("utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def declared_rows(kind: type[Options]) -> Iterator[str]:
    (options,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(options, ast.ClassDef)
    for field, below in zip(options.body, options.body[1:]):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(field.target, ast.Name)
            assert isinstance(below, ast.Expr)
            name, row = field.target.id, " ".join(ast.literal_eval(below.value).split())
            cells = [f"`{name}`", str(getattr(kind, name)), *row.split(" | ")]
            yield "| " + " | ".join(cells)


def test_tables_of_peers_page_show_every_bound_and_default() -> None:
    text = (ROOT / "docs" / "peers.md").read_text("utf-8")
    shown = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE))
    taken = keywords(serve_websocket)
    own = ("handler", "host", "port", "ssl_context", "handler_nursery", "task_status")
    for other in (*own, "receive_buffer_size"):  # this option is not a bound
        del taken[other]
    assert shown == {name: str(default) for name, default in taken.items()}


def first_cells(text: str) -> list[str]:
    """Return the first cell of each row of the tables, except heads and empty cells."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()[2:]]
    return [cell for cell in (row.split("|")[1].strip() for row in rows) if cell]


def test_each_row_of_peers_page_has_a_proof() -> None:
    peers, proofs = (
        (ROOT / "docs" / name).read_text("utf-8") for name in ("peers.md", "proofs.md")
    )
    assert first_cells(proofs) == first_cells(peers)
    for row in re.findall(r"^\| (?!row|-).*", proofs, re.MULTILINE):
        assert re.search(r"`tests/[\w/]+\.py::\w+` \|$", row), row


@each_page
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"\b(tests/[\w/]+\.py)::(\w+)", page.read_text("utf-8"))
    for path, name in named:
        assert name in functions_of(ROOT / path), f"{path}::{name}"


@functools.lru_cache(maxsize=None)
def functions_of(path: Path) -> frozenset[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text("utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, functions))


@pytest.mark.parametrize("path", pictures.files(), ids=lambda path: str(path.name))
def test_pictures_and_table_of_modules_are_current(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text == pictures.files()[path], "not current: run python -m docs.pictures"


def test_commit_hooks_use_the_ruff_of_make_lint() -> None:
    hooks, project = (
        (ROOT / name).read_text("utf-8") for name in (".pre-commit-config.yaml", "pyproject.toml")
    )
    assert set(re.findall(r"ruff==[\d.]+", hooks)) == set(re.findall(r"ruff==[\d.]+", project))
