"""A peer that speaks TLS record by record, and sends what the ssl module can't be made to send."""

from __future__ import annotations

import functools
import hmac
import ssl
import struct
from pathlib import Path

import trio
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ALERT, HANDSHAKE, DATA = 21, 22, 23  # types of records (RFC 8446, 5.1)

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

HOST = "example.org"


@functools.lru_cache(maxsize=None)
def authority() -> tuple[trustme.CA, trustme.LeafCert]:
    """Who signs the certificates, and the one of HOST."""
    made = trustme.CA()
    return made, made.issue_cert(HOST)


def contexts(version: ssl.TLSVersion = TLS_1_3) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """New contexts for a client and a server."""
    certifying, certificate = authority()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # quicker than with the system's authorities
    certifying.configure_trust(client)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(server)
    for context in (client, server):
        context.minimum_version = context.maximum_version = version
    return client, server


class TlsPeer:
    """One end of TLS on a raw stream. It is read and written by what a test says, not by itself."""

    def __init__(
        self, stream: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool, keys: Path
    ) -> None:
        """
        :param stream: What it is on.
        :param context: What is wanted of TLS; nobody else uses it.
        :param server_side: Whether this is the server.
        :param keys: A file for the keys.
        """
        context.keylog_filename = str(keys)
        if server_side:
            context.num_tickets = 0  # so that the first record is ours
        self.stream = stream
        self._keys = keys
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.engine = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_side else HOST,
        )
        self._sent = self._received = b""
        self._writer: _Writer | None = None

    async def do_handshake(self) -> None:
        """Do the handshake."""
        is_done = False
        while not is_done:
            try:
                self.engine.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                pass
            await self.send(self._outgoing.read())
            if not is_done:
                await self.receive()

    async def receive(self) -> bytes:
        """Some bytes as they come, which the engine gets, too."""
        data = await self.stream.receive_some()
        self._received += data
        self._incoming.write(data)
        return bytes(data)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._sent += data
        await self.stream.send_all(data)

    def take(self) -> bytes:
        """What the engine has to send."""
        return self._outgoing.read()

    @property
    def client_hello(self) -> bytes:
        """The first message of the client: ours."""
        return self._sent[5 : 9 + int.from_bytes(self._sent[6:9], "big")]

    def decrypt(self, data: bytes = b"") -> bytes:
        """What is in the bytes, and what the engine has still got."""
        self._incoming.write(data)
        chunks = []
        try:
            while True:
                chunks.append(self.engine.read())
                if not chunks[-1]:
                    break
        except ssl.SSLWantReadError:
            pass
        return b"".join(chunks)

    def encrypt(self, data: bytes) -> bytes:
        """The records for some data, by the engine."""
        self.engine.write(data)
        return self._outgoing.read()

    def record(self, kind: int, payload: bytes) -> bytes:
        """A record of any kind and contents. After the first one the engine can't send any more."""
        if self._writer is None:
            self._writer = self._new_writer()
        return self._writer.record(kind, payload)

    def key_update(self, *, is_requested: bool) -> bytes:
        """The record that says that our next one is under new keys (RFC 8446, 4.6.3)."""
        data = self.record(HANDSHAKE, bytes([24, 0, 0, 1, is_requested]))
        assert isinstance(self._writer, _Writer13)
        self._writer = self._writer.next()
        return data

    def _new_writer(self) -> _Writer:
        cipher = self.engine.cipher()
        assert cipher is not None
        name, version, bits = cipher
        algorithm = "sha" + name[-3:]
        secrets = {}
        for line in self._keys.read_text().splitlines():
            label, _, rest = line.partition(" ")
            if label != "#":
                secrets[label] = tuple(map(bytes.fromhex, rest.split()))
        is_server = self.engine.server_side
        if version == "TLSv1.3":
            label = "SERVER_TRAFFIC_SECRET_0" if is_server else "CLIENT_TRAFFIC_SECRET_0"
            return _Writer13(secrets[label][1], algorithm, bits // 8)
        client_random, master = secrets["CLIENT_RANDOM"]
        server_random = (self._sent if is_server else self._received)[11:43]
        seed = b"key expansion" + server_random + client_random
        return _Writer12(master, seed, algorithm, bits // 8, is_server=is_server)


class _Writer:
    """Makes records of one kind of keys."""

    def record(self, kind: int, payload: bytes) -> bytes:
        raise NotImplementedError


class _Writer13(_Writer):
    """TLS 1.3 with AES-GCM (RFC 8446, 5.2, 5.3 and 7.3)."""

    def __init__(self, secret: bytes, algorithm: str, key_size: int) -> None:
        self._secret, self._algorithm, self._key_size = secret, algorithm, key_size
        self._cipher = AESGCM(self._expand(b"key", key_size))
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")
        self._number = 0

    def record(self, kind: int, payload: bytes) -> bytes:
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        plain = payload + bytes([kind])
        head = struct.pack("!BHH", DATA, 0x0303, len(plain) + 16)
        return head + self._cipher.encrypt(nonce, plain, head)

    def next(self) -> _Writer13:
        """The one with the keys that follow."""
        secret = self._expand(b"traffic upd", len(self._secret))
        return _Writer13(secret, self._algorithm, self._key_size)

    def _expand(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = struct.pack("!HB", size, len(label)) + label + b"\0\x01"
        return hmac.new(self._secret, info, self._algorithm).digest()[:size]


class _Writer12(_Writer):
    """TLS 1.2 with AES-GCM (RFC 5246, 5 and 6.3; RFC 5288)."""

    def __init__(
        self, master: bytes, seed: bytes, algorithm: str, key_size: int, *, is_server: bool
    ) -> None:
        block, a = b"", seed
        while len(block) < 2 * key_size + 8:
            a = hmac.new(master, a, algorithm).digest()
            block += hmac.new(master, a + seed, algorithm).digest()
        keys, ivs = block[: 2 * key_size], block[2 * key_size :]
        self._cipher = AESGCM(keys[key_size:] if is_server else keys[:key_size])
        self._iv = ivs[4:8] if is_server else ivs[:4]
        self._number = 1  # behind Finished

    def record(self, kind: int, payload: bytes) -> bytes:
        number = struct.pack("!Q", self._number)
        self._number += 1
        head = struct.pack("!BH", kind, 0x0303)
        checked = number + head + struct.pack("!H", len(payload))
        body = number + self._cipher.encrypt(self._iv + number, payload, checked)
        return head + struct.pack("!H", len(body)) + body
