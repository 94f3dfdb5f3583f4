"""Run the example client against the echo server, and print each line of input and output.

    make demo
    python examples/demo.py

`<` marks a line of a program's input, and `>` a line of its output. The function `converse`
contains the whole dialogue. The exit status is 0 only if each line is the expected one and arrives
in time.
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
    """A program did not behave as expected."""


class Program:
    """A running example with lines as input and output. Each call has a time-out."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self._process = process
        self._unread = b""

    async def command(self, line: str) -> None:
        """Send one line of input."""
        assert self._process.stdin is not None
        print(f"{self.name} < {line}", flush=True)
        try:
            with trio.fail_after(STEP_TIMEOUT):
                await self._process.stdin.send_all(line.encode() + b"\n")
        except trio.BrokenResourceError:
            raise DemoError(f"the {self.name} ended before the end of the demo") from None

    async def expect(self, pattern: str) -> str:
        """Print the next line of output. Return the pattern's group, or the line if it has none."""
        with trio.fail_after(STEP_TIMEOUT):
            line = await self._read_line()
        print(f"{self.name} > {line}", flush=True)
        match = re.fullmatch(pattern, line)
        if match is None:
            raise DemoError(f"expected {pattern!r}, not {line!r}")
        return match[match.lastindex or 0]

    async def _read_line(self) -> str:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            data = await self._process.stdout.receive_some()
            if not data:
                raise DemoError(f"the {self.name} ended before the end of the demo")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    async def expect_end(self) -> None:
        """Wait until the program ends by itself, with status 0."""
        with trio.fail_after(STEP_TIMEOUT):
            status = await self._process.wait()
        print(f"{self.name} ended with status {status}", flush=True)
        if status != 0:
            raise DemoError(f"expected exit status 0 of the {self.name}, not {status}")

    async def stop(self, signum: int = signal.SIGTERM) -> None:
        """Send SIGTERM to the program."""
        self._process.send_signal(signum)
        if os.name == "posix":  # on other systems, the signal kills the program
            await self.expect_end()


@asynccontextmanager
async def run_example(name: str, script: str, *arguments: str) -> AsyncIterator[Program]:
    """Run one of the examples. If it is still running at the end of the block, kill it."""
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
    """Send text, binary data and a ping, and close. Check the output of both sides."""
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
        print(f"The demo failed: no output within {STEP_TIMEOUT} s", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # the shells' status for SIGINT
    print("The demo worked.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
