"""The load for a thousand connections, in one process with epoll."""

from __future__ import annotations

import os
import random
import select
import time

from benchmarks import load, wire
from benchmarks.task import Task
from support.frames import BINARY

DONE_SIZE = wire.frame_size(len(wire.DONE), masked=False)
REQUEST = wire.frame(b"go", BINARY, masked=True)


class Crowd:
    """Many clients of one server."""

    def __init__(self, task: Task, port: int, count: int, *, is_raw: bool) -> None:
        self._lines = [load.connect(task, port, is_raw=is_raw) for _ in range(count)]
        self._descriptors = [line.sock.fileno() for line in self._lines]
        self._epoll = select.epoll()
        for line in self._lines:
            line.sock.setblocking(False)
            self._epoll.register(line.sock, select.EPOLLIN)
        self._size = wire.frame_size(task.size, masked=False)
        self._frame = b""
        self._idle: list[int] = []

    def close(self) -> None:
        self._epoll.close()
        for line in self._lines:
            line.close()

    def talk(self, frame: bytes, at_once: int) -> None:
        """Send the frame on `at_once` random connections."""
        self._frame = frame
        self._idle = self._descriptors[:]
        chance = random.Random(1)
        chance.shuffle(self._idle)
        self._random = chance.random
        for _ in range(at_once):
            os.write(self._idle.pop(), frame)

    def go_on(self) -> int:
        """Read the answers that have arrived, and send as many frames. Return their number."""
        idle, frame = self._idle, self._frame
        ready = self._epoll.poll(load.TIMEOUT)
        assert ready, "it hangs"
        for descriptor, _ in ready:
            os.read(descriptor, 4096)  # a small answer arrives in one read
            index = int(self._random() * len(idle))
            os.write(idle[index], frame)
            idle[index] = descriptor
        return len(ready)

    def broadcast(self) -> float:
        """Request a broadcast. Return the seconds until all clients have the message.

        The server then tells the requesting client that it continues. The call waits for this
        message too, but does not include it in the result.
        """
        asking = self._descriptors[0]
        missing = dict.fromkeys(self._descriptors, self._size)
        missing[asking] += DONE_SIZE
        others = len(missing) - 1
        begin, end = time.perf_counter(), 0.0
        os.write(asking, REQUEST)
        poll, read = self._epoll.poll, os.read
        while missing:
            ready = poll(load.TIMEOUT)
            assert ready, "it hangs"
            for descriptor, _ in ready:
                left = missing[descriptor] - len(read(descriptor, 2**16))
                if left:
                    missing[descriptor] = left
                else:
                    del missing[descriptor]
                    others -= descriptor != asking
            if not others and not end:
                end = time.perf_counter()
        return end - begin
