"""A peer that speaks TLS record by record, and can send what the ssl module never sends."""

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
    """Return a certificate authority, and its certificate for HOST."""
    made = trustme.CA()
    return made, made.issue_cert(HOST)


def contexts(version: ssl.TLSVersion = TLS_1_3) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return new contexts for a client and a server."""
    certifying, certificate = authority()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # faster than loading the system's authorities
    certifying.configure_trust(client)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(server)
    for context in (client, server):
        context.minimum_version = context.maximum_version = version
    return client, server


class TlsPeer:
    """One end of TLS on a raw stream. Tests call each read and write."""

    def __init__(
        self, stream: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool, keys: Path
    ) -> None:
        """
        :param stream: The raw stream.
        :param context: The context; nothing else uses it.
        :param server_side: True if this is the server.
        :param keys: The path of a file for the secrets.
        """
        context.keylog_filename = str(keys)
        if server_side:
            context.num_tickets = 0  # then the first record is one of the test
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
        """Receive bytes, feed them to the engine, and return them."""
        data = await self.stream.receive_some()
        self._received += data
        self._incoming.write(data)
        return bytes(data)

    async def send(self, data: bytes) -> None:
        """Send bytes unchanged."""
        self._sent += data
        await self.stream.send_all(data)

    def take(self) -> bytes:
        """Return the bytes that the engine wants to send."""
        return self._outgoing.read()

    @property
    def client_hello(self) -> bytes:
        """The ClientHello that this end sent."""
        return self._sent[5 : 9 + int.from_bytes(self._sent[6:9], "big")]

    def decrypt(self, data: bytes = b"") -> bytes:
        """Return the plaintext of these bytes and of those that the engine holds."""
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
        """Return the records for some data, made by the engine."""
        self.engine.write(data)
        return self._outgoing.read()

    def record(self, kind: int, payload: bytes) -> bytes:
        """Return a record of any type. After the first, the engine can't send any more."""
        if self._writer is None:
            self._writer = self._new_writer()
        return self._writer.record(kind, payload)

    def key_update(self, *, is_requested: bool) -> bytes:
        """Return a KeyUpdate record (RFC 8446, 4.6.3); the next record uses new keys."""
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
    """Makes records with one set of keys."""

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
        """Return the writer with the next keys."""
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
        self._number = 1  # after Finished

    def record(self, kind: int, payload: bytes) -> bytes:
        number = struct.pack("!Q", self._number)
        self._number += 1
        head = struct.pack("!BH", kind, 0x0303)
        checked = number + head + struct.pack("!H", len(payload))
        body = number + self._cipher.encrypt(self._iv + number, payload, checked)
        return head + struct.pack("!H", len(body)) + body
