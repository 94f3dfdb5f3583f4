"""The task of a process under test. The process gets it on the command line, as JSON."""

from __future__ import annotations

import dataclasses
import json
import ssl
from pathlib import Path

from benchmarks import wire

HOST = "127.0.0.1"
MAX_SIZE = 2**25  # limit on messages, larger than any message of a case


@dataclasses.dataclass(frozen=True)
class Task:
    """One side of a case.

    A server prints its port, and then does its `work` with each connection:

    - echo: sends back each message;
    - sink: answers each `batch` messages with one of four bytes;
    - source: waits for a message, and sends messages from then on;
    - broadcast: on each message, sends one to all connections, and four bytes to this one.

    A client does its `work` on one connection to `port`, until it is killed:

    - exchange: sends `batch` messages and receives as many, over and over;
    - sink, source: as above, but a source does not wait;
    - connect: opens a connection and closes it, over and over;
    - visit: the same, but waits for the peer to close it (raw streams only).
    """

    side: str = "server"
    work: str = "echo"
    size: int = 32
    text: bool = False
    batch: int = 1
    tls: str = ""  # the folder with the certificates
    deflate: bool = False
    port: int = 0
    tidies: bool = False  # frees memory on request, in another thread
    counted: bool = False  # instructions.py counts its instructions

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def load(cls, text: str) -> Task:
        return cls(**json.loads(text))

    @property
    def url(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://{HOST}:{self.port}/"

    def messages(self) -> list[str | bytes]:
        return wire.messages(self.size, text=self.text, compressible=self.deflate)

    def server_context(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(self.tls) / "server.pem")
        return context

    def client_context(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        return ssl.create_default_context(cafile=Path(self.tls) / "ca.pem")
