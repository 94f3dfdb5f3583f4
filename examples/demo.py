"""Run the echo server and the client against each other, and print what happens line by line.

    make demo
    python examples/demo.py

`<` marks a command that the client is given, `>` what a program prints. `converse` has them all.
The exit status is 0 only if each line came in time and was the expected one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import AsyncIterator

import trio

EXAMPLES = Path(__file__).resolve().parent
STEP_TIMEOUT = 30  # seconds for each answer


class DemoError(Exception):
    """Something did not go as it should."""


class Program:
    """A running example whose input and output are lines; each call is bounded."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self._process = process
        self._unread = b""

    async def command(self, line: str) -> None:
        """Type one line of input."""
        assert self._process.stdin is not None
        print(f"{self.name} < {line}", flush=True)
        try:
            with trio.fail_after(STEP_TIMEOUT):
                await self._process.stdin.send_all(line.encode() + b"\n")
        except trio.BrokenResourceError:
            raise DemoError(f"the {self.name} ended too early") from None

    async def expect(self, pattern: str) -> str:
        """Print the next line of output; return it, or what the pattern has a group for."""
        with trio.fail_after(STEP_TIMEOUT):
            line = await self._read_line()
        print(f"{self.name} > {line}", flush=True)
        match = re.fullmatch(pattern, line)
        if match is None:
            raise DemoError(f"that should have been {pattern!r}")
        return match[match.lastindex or 0]

    async def _read_line(self) -> str:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            data = await self._process.stdout.receive_some()
            if not data:
                raise DemoError(f"the {self.name} ended too early")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    async def expect_end(self) -> None:
        """Wait until the program has ended by itself, with status 0."""
        with trio.fail_after(STEP_TIMEOUT):
            status = await self._process.wait()
        print(f"{self.name} ended with status {status}", flush=True)
        if status != 0:
            raise DemoError("that should have been status 0")

    async def stop(self, signum: int = signal.SIGTERM) -> None:
        """Ask the program to end."""
        self._process.send_signal(signum)
        if os.name == "posix":  # elsewhere it was not asked, but killed
            await self.expect_end()


@asynccontextmanager
async def run_example(name: str, script: str, *arguments: str) -> AsyncIterator[Program]:
    """Run one of the examples; if it still runs at the end of the block, kill it."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Program(name, process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def converse() -> None:
    """Go through text, binary, ping and close, as both sides see them."""
    async with run_example("server", "echo_server.py", "--port", "0") as server:
        url = await server.expect(r"Echo server at (ws://127\.0\.0\.1:\d+/?)")
        async with run_example("client", "client.py", url) as client:
            await client.expect(r"connected to .*")
            await server.expect(r"server-\d+: open")
            await client.command("send Hello, Trio!")
            await client.expect(r"received: 'Hello, Trio!'")
            await client.command("binary 00 01 fe ff")
            await client.expect(r"received: binary 0001feff")
            await client.command("ping are you there?")
            await client.expect(r"pong after \d+\.\d+ ms")
            await client.command("close 1000 that was the demo")
            await server.expect(r"server-\d+: closed, .*code=1000, .*reason=that was the demo>")
            await client.expect(r"closed: .*code=1000, .*")
            await client.expect_end()
        await server.stop()


def main() -> int:
    try:
        trio.run(converse)
    except DemoError as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except trio.TooSlowError:
        print(f"The demo failed: nothing came within {STEP_TIMEOUT} s", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # what shells say of SIGINT
    print("The demo worked.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
