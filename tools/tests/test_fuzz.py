"""A short run of `make fuzz`, tests that it finds faults, and tests for its past findings."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import h11
import pytest
import trio
import trio.testing
from wsproto.connection import ConnectionType
from wsproto.events import Ping

from tools.fuzz import edge, guided, proxies, sansio
from tools.fuzz.__main__ import Fuzzer, main
from tools.fuzz.handshakes import KEY, request, response
from tools.fuzz.model import Verdict, Violation, check_refusal, judge
from tools.fuzz.targets import EDGE, SANS_IO, TARGETS, EdgeTarget, SansIOTarget, Target
from trio_websocket import HandshakeError, PerMessageDeflate, ProxyError, WebSocketConnection
from trio_websocket._sansio.client_handshake import ClientHandshake
from trio_websocket._sansio.deflate import DeflateCodec, DeflateExtension
from trio_websocket._sansio.events import Event, Status
from trio_websocket._sansio.options import Options
from trio_websocket._sansio.protocol import Protocol
from trio_websocket._sansio.proxy import Proxy, parse_proxy
from trio_websocket._sansio.server_handshake import BadRequest, ServerHandshake
from trio_websocket._sansio.tunnel import TunnelRequest

NEED_DATA = Status.NEED_DATA
PARTIAL = Status.PARTIAL

pytestmark = [pytest.mark.no_cover, pytest.mark.usefixtures("frozen_heap")]

# The remaining targets wait for real time-outs.
VIRTUAL = [target for target in EDGE if target.kind not in edge.REAL]


def name_of(target: Target) -> str:
    return target.name


# -- short runs


@pytest.mark.parametrize("target", SANS_IO, ids=name_of)
def test_fuzz_sansio_targets_find_nothing(target: SansIOTarget) -> None:
    target.run("test", range(200))


@pytest.mark.parametrize("target", VIRTUAL, ids=name_of)
def test_fuzz_edge_targets_find_nothing(target: EdgeTarget) -> None:
    target.run("test", range(25))


def test_fuzz_silent_client_is_no_finding() -> None:
    TARGETS["server-socketpair"].run("101", [8049])


@pytest.mark.parametrize("target", TARGETS.values(), ids=name_of)
def test_fuzz_show_is_deterministic(target: Target) -> None:
    assert target.show("1", 5) == target.show("1", 5)
    assert target.show("1", 5) != target.show("2", 5)


# -- faults are found


class WithoutPings(Protocol):
    def next_event(self, *, raw: bool = False, is_awaited: bool = True) -> Event:
        event = super().next_event(raw=raw, is_awaited=is_awaited)
        return PARTIAL if isinstance(event, Ping) else event


class WithoutCloseFrame(Protocol):
    def take_final_bytes(self) -> bytes:
        return b""


class WithoutFastEmptyMessages(Protocol):
    def next_event(self, *, raw: bool = False, is_awaited: bool = True) -> Event:
        event = super().next_event(raw=raw, is_awaited=is_awaited)
        return PARTIAL if event == "" and self.closing.is_open else event


class WithoutLimit(Protocol):
    def __init__(
        self,
        side: ConnectionType,
        options: Options,
        extension: DeflateExtension | None = None,
        *,
        fast: bool = True,
    ) -> None:
        super().__init__(side, Options(max_fragments=options.max_fragments), extension, fast=fast)


class Hoarding(Protocol):
    def next_event(self, *, raw: bool = False, is_awaited: bool = True) -> Event:
        return (
            super().next_event(raw=raw, is_awaited=is_awaited)
            if self.reader.eof is not None
            else NEED_DATA
        )


class WithoutFastLimit(DeflateCodec):
    def inflate_chunk(self, data: bytes, *, is_last: bool, max_length: int) -> bytes:
        if is_last and data:  # only the fast path does that
            data = super().inflate_chunk(data, is_last=True, max_length=sys.maxsize)
            return data[: max_length - 1]
        return super().inflate_chunk(data, is_last=is_last, max_length=max_length)


class WithoutTakeover(DeflateCodec):
    def inflate_chunk(self, data: bytes, *, is_last: bool, max_length: int) -> bytes:
        if is_last and data:  # only the fast path does that
            resetting = DeflateCodec(self.agreed, PerMessageDeflate(), is_client=False)
            return resetting.inflate_chunk(data, is_last=True, max_length=max_length)
        return super().inflate_chunk(data, is_last=is_last, max_length=max_length)


class LeakingErrors(ServerHandshake):
    def has_request(self) -> bool:
        try:
            return super().has_request()
        except BadRequest as exc:
            raise exc.__cause__ or exc from None


class WithoutClose(ServerHandshake):
    def reject(self, *args: Any, **kwargs: Any) -> bytes:
        return super().reject(*args, **kwargs).replace(b"close", b"keep-alive")


class Endless(ClientHandshake):
    def receive_data(self, data: bytes) -> None:
        if data:
            super().receive_data(data)


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("server-protocol", WithoutPings),
        ("client-protocol", WithoutCloseFrame),
        ("server-protocol", WithoutFastEmptyMessages),
        ("server-protocol", WithoutLimit),
        ("client-protocol", Hoarding),
        ("server-deflate", WithoutFastLimit),
        ("client-deflate", WithoutTakeover),
        ("server-handshake", LeakingErrors),
        ("server-handshake", WithoutClose),
        ("client-handshake", Endless),
    ],
)
def test_fuzz_sansio_fault_is_found(
    target: str, fault: type[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (base,) = fault.__bases__
    monkeypatch.setattr(sansio, base.__name__, fault)
    with pytest.raises((AssertionError, h11.RemoteProtocolError)):
        TARGETS[target].run("test", range(300))


class ShowingCredentials(TunnelRequest):
    def result(self) -> bytes | None:
        try:
            return super().result()
        except ProxyError as exc:
            raise ProxyError(f"{exc} for {self.request!r}", proxy=exc.proxy) from None


def parse_with_credentials(url: str) -> Proxy:
    return dataclasses.replace(parse_proxy(url), url=url)


@pytest.mark.parametrize(
    ("target", "name", "fault"),
    [
        ("tunnel", "TunnelRequest", ShowingCredentials),
        ("proxy-url", "parse_proxy", parse_with_credentials),
    ],
)
def test_fuzz_proxy_fault_is_found(
    target: str, name: str, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies, name, fault)
    with pytest.raises(Violation):
        TARGETS[target].run("test", range(300))


send_message, get_message = WebSocketConnection.send_message, WebSocketConnection.get_message


async def lose_empty_messages(ws: WebSocketConnection, message: str | bytes) -> None:
    if message:
        await send_message(ws, message)


async def raise_for_empty_messages(ws: WebSocketConnection) -> str | bytes:
    message = await get_message(ws)
    if not message:
        raise ZeroDivisionError
    return message


async def close_late(ws: WebSocketConnection, code: int = 1000, reason: str | None = None) -> None:
    await trio.sleep(100)


@pytest.mark.parametrize(
    ("target", "method", "fault"),
    [
        ("server-memory", "send_message", lose_empty_messages),
        ("server-socketpair", "get_message", raise_for_empty_messages),
        ("client-memory", "get_message", raise_for_empty_messages),
        ("client-lockstep", "aclose", close_late),
    ],
)
def test_fuzz_edge_fault_is_found(
    target: str, method: str, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WebSocketConnection, method, fault)
    with pytest.raises(Exception):  # noqa: B017, PT011 # any exception, or a group
        for batch in range(10):  # only some handlers echo
            TARGETS[target].run("test", range(50 * batch, 50 * batch + 20))


def test_fuzz_failed_cases_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(WebSocketConnection, "send_message", lose_empty_messages)
    found = Fuzzer("test")
    for batch in range(10):
        if not found.findings:
            found.run_batch(TARGETS["server-memory"], range(50 * batch, 50 * batch + 8))
    output = capsys.readouterr().out
    assert output.count("server-memory, seed test, case ") == found.findings["server-memory"] > 0
    assert "not echoed" in output


def test_fuzz_log_record_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Talking(Protocol):
        def next_event(self, *, raw: bool = False, is_awaited: bool = True) -> Event:
            logging.getLogger("trio-websocket").error("something is wrong")
            return super().next_event(raw=raw, is_awaited=is_awaited)

    monkeypatch.setattr(sansio, "Protocol", Talking)
    found = Fuzzer("test")
    found.run_batch(TARGETS["client-protocol"], [7])
    assert found.findings == {"client-protocol": 1}
    assert "it said: something is wrong" in capsys.readouterr().out


def test_fuzz_slow_case_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Protocol):
        def next_event(self, *, raw: bool = False, is_awaited: bool = True) -> Event:
            time.sleep(1)
            return super().next_event(raw=raw, is_awaited=is_awaited)

    monkeypatch.setattr(sansio, "Protocol", Slow)
    found = Fuzzer("test", limit=0.05)
    found.run_batch(TARGETS["client-protocol"], [7])
    assert found.findings == {"client-protocol": 1}


# -- the command


def test_fuzz_main_prints_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "0.1", "--seed", "3", "--target", "client-protocol"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["target", "client-protocol", "seed"]
    assert lines[-1].startswith("seed 3: ")
    assert lines[-1].endswith(" 0 findings")


def test_fuzz_main_repeats_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sansio, "Protocol", WithoutCloseFrame)
    assert main(["--seconds", "0.1", "--seed", "3", "--target", "client-protocol"]) == 1
    first = capsys.readouterr().out
    case = first.partition("client-protocol, seed 3, case ")[2].partition(":")[0]
    again = ["--seed", "3", "--target", "client-protocol", "--case", case]
    assert main(again) == 1
    assert "not the right Close" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(again) == 0


def test_fuzz_main_case_without_target_fails() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--case", "1"])


def test_fuzz_guided_input_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "input"
    path.write_bytes(bytes(8) + request(Random(1), faults=0))
    arguments = ["--target", "server-handshake", "--input", str(path)]
    assert guided.main(arguments) == 0
    monkeypatch.setattr(sansio, "ServerHandshake", WithoutClose)
    path.write_bytes(bytes(8) + b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(Violation, match="no 'Connection: close'"):
        guided.main(arguments)


# -- the model, by examples of RFC 6455, 5.7


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"\x81\x05Hello", Verdict(["Hello"])),
        (b"\x01\x03Hel\x80\x02lo", Verdict(["Hello"])),
        (b"\x89\x05Hello\x8a\x05Hello", Verdict([("ping", b"Hello"), ("pong", b"Hello")])),
        (b"\x82\x7e\x01\x00" + bytes(256), Verdict([bytes(256)])),
        (b"\x82\x7f\0\0\0\0\0\1\0\0" + bytes(65536), Verdict([bytes(65536)])),
        (b"\x88\x00", Verdict(closed=(1005, ""))),
        (b"\x88\x05\x03\xe8bye", Verdict(closed=(1000, "bye"))),
        (b"\x88\x02\x03\xed", Verdict(failed=1002)),
        (b"\x88\x01\x03", Verdict(failed=1002)),
        (b"\x83\x00", Verdict(failed=1002)),
        (b"\xc1\x00", Verdict(failed=1002)),
        (b"\x09\x00", Verdict(failed=1002)),
        (b"\x80\x00", Verdict(failed=1002)),
        (b"\x01\x00\x81\x00", Verdict(failed=1002)),
        (b"\x81\x80\0\0\0\0", Verdict(failed=1002)),
        (b"\x82\x7e\x00\x7d", Verdict(failed=1002, is_early=True)),
        (b"\x81\x01\xff", Verdict(failed=1007)),
        (b"\x81\x7e\x10\x00\xff", Verdict(failed=1007, is_early=True)),
        (b"\x81\x7e\x0f\xff\xff", Verdict(failed=1007)),
        (b"\x01\x01\xc3\x80\x00", Verdict(failed=1007)),
        (b"\x82\x7f\0\0\0\0\1\0\0\0", Verdict(failed=1009)),
        (b"\x81\x05Hell", Verdict()),
    ],
)
def test_model_judges_frames(data: bytes, verdict: Verdict) -> None:
    assert judge(data, masked=False, max_size=2**20, max_fragments=2) == verdict


# -- past findings


def test_model_checks_length_of_error_text() -> None:
    # The text contained the server's subprotocol, without a limit.
    key = [(b"Sec-WebSocket-Key", KEY)]
    handshake = ClientHandshake("example.org", "/", ["chat"], key, Options())
    end = b"Sec-WebSocket-Protocol: " + b"x" * 60_000 + b"\r\n\r\n"
    handshake.receive_data(response(Random(1), faults=0)[:-2] + end)
    with pytest.raises(HandshakeError, match="xxxx") as caught:
        handshake.result()
    assert len(str(caught.value)) < 300


DIGITS = b"Content-Length: " + b"9" * 5000


def test_server_handshake_content_length_of_many_digits_gets_400() -> None:
    # h11 before 0.15 converts it to an int, which fails for thousands of digits.
    handshake = ServerHandshake(Options())
    handshake.receive_data(request(Random(1), faults=0)[:-2] + DIGITS + b"\r\n\r\n")
    with pytest.raises(BadRequest) as caught:
        handshake.has_request()
    assert check_refusal(caught.value.response) == 400


def test_client_handshake_content_length_of_many_digits_raises() -> None:
    handshake = ClientHandshake("example.org", "/", None, None, Options())
    handshake.receive_data(b"HTTP/1.1 503 No\r\n" + DIGITS + b"\r\n\r\n")
    with pytest.raises(HandshakeError):
        handshake.result()
