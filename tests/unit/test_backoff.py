"""`Failure` and `Backoff`: which failures are permanent, and how long to wait after the others."""

from __future__ import annotations

import dataclasses
import math
import random
import ssl
import sys
from typing import Any

import pytest

from trio_websocket import (
    Backoff,
    CloseReason,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    Failure,
    HandshakeError,
    ProxyError,
    Reconnect,
)

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


def failure(exception: Exception, attempt: int = 1, outage_seconds: float = 0) -> Failure:
    return Failure(exception, 0, attempt, outage_seconds)


def rejected(status_code: int, *headers: tuple[bytes, bytes]) -> Failure:
    return failure(ConnectionRejected(status_code, headers, b""))


def closed(code: int, *, is_rcvd: bool = True) -> ConnectionClosed:
    reason = CloseReason(code, None)
    return ConnectionClosed(reason, rcvd=reason if is_rcvd else None, sent=reason)


def caused_by(cause: Exception) -> Failure:
    exc = ConnectionFailed("no TLS")
    exc.__cause__ = OSError()
    exc.__cause__.__cause__ = cause
    return failure(exc)


def ssl_error(reason: str | None) -> ssl.SSLError:
    error = ssl.SSLError(1, "text")
    if reason is not None:
        error.reason = reason
    return error


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Let `random.uniform` return the middle. Return the ranges that were drawn from."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return (low + high) / 2

    monkeypatch.setattr(random, "uniform", uniform)
    return drawn


def test_failure_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        failure(OSError()).attempt = 2  # type: ignore[misc] # what is tested


# -- is_permanent


@pytest.mark.parametrize("code", [300, 301, 308, 400, 401, 403, 404, 407, 426, 499, 501, 505])
def test_is_permanent_final_status_true(code: int) -> None:
    assert rejected(code).is_permanent


@pytest.mark.parametrize("code", [103, 200, 299, 408, 425, 429, 500, 502, 503, 504, 511, 599, 600])
def test_is_permanent_other_status_false(code: int) -> None:
    assert not rejected(code).is_permanent


@pytest.mark.parametrize(("code", "expected"), [(407, True), (503, False), (None, False)])
def test_is_permanent_status_of_proxy_counts(code: int | None, expected: bool) -> None:
    assert failure(ProxyError("refused", status_code=code)).is_permanent == expected


def test_is_permanent_status_of_other_exception_ignored() -> None:
    exc = OSError()
    exc.status_code = 404  # type: ignore[attr-defined] # some HTTP client may have it
    assert not failure(exc).is_permanent


@pytest.mark.parametrize(
    "cause",
    [
        ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"),
        ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        ssl_error("TLSV1_ALERT_UNKNOWN_CA"),
    ],
)
def test_is_permanent_certificate_error_true(cause: ssl.SSLError) -> None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        cause.reason = "CERTIFICATE_VERIFY_FAILED"  # as OpenSSL sets it
    assert caused_by(cause).is_permanent


@pytest.mark.parametrize("cause", [ssl_error("WRONG_VERSION_NUMBER"), ssl_error(None), OSError()])
def test_is_permanent_other_network_error_false(cause: Exception) -> None:
    assert not caused_by(cause).is_permanent


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (OSError(), False),
        (TimeoutError(), False),
        (HandshakeError(), False),
        (ConnectionTimeout(), False),
        (closed(1008), False),
        (Reconnect(), False),
        (ValueError(), True),
        (KeyError(), True),
    ],
)
def test_is_permanent_depends_on_type(exc: Exception, expected: bool) -> None:
    assert failure(exc).is_permanent == expected


# -- retry_after


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", 0),
        (b"00", 0),
        (b"120", 120),
        (b"0000000000000120", 120),
        (b"3601", 3600),
        (b"9" * 60_000, 3600),
        (b"-1", None),
        (b"1.5", None),
        (b"", None),
        (b"soon", None),
        (b"\xb2", None),
        (b"Sun, 06 Nov 1994 08:49:47 GMT", 10),
        (b"Sunday, 06-Nov-94 08:49:47 GMT", 10),
        (b"Sun Nov  6 08:49:47 1994", 10),
        (b"Sun, 06 Nov 1994 08:49:27 GMT", 0),
        (b"Sun, 06 Nov 1995 08:49:37 GMT", 3600),
        (b"Sun, 06 Nov 99999999999 08:49:37 GMT", None),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_header_in_seconds(code: int, value: bytes, expected: float | None) -> None:
    assert rejected(code, (b"date", DATE), (b"retry-after", value)).retry_after == expected


@pytest.mark.parametrize("date", [(), ((b"date", b"today"),)])
def test_retry_after_date_without_date_of_response_is_none(date: Any) -> None:
    assert rejected(503, *date, (b"retry-after", DATE)).retry_after is None


def test_retry_after_first_valid_header_counts() -> None:
    values = [(b"retry-after", value) for value in (b"soon", b"7", b"8")]
    assert rejected(503, *values).retry_after == 7


def test_retry_after_no_header_is_none() -> None:
    assert rejected(503).retry_after is None


def test_retry_after_of_proxy_counts() -> None:
    exc = ProxyError("refused", status_code=429, headers=((b"retry-after", b"7"),))
    assert failure(exc).retry_after == 7


@pytest.mark.parametrize("exc", [rejected(500, (b"retry-after", b"7")).exception, OSError()])
def test_retry_after_other_failure_is_none(exc: Exception) -> None:
    assert failure(exc).retry_after is None


# -- Backoff


def test_backoff_limit_grows_to_maximum(draws: list[tuple[float, float]]) -> None:
    backoff = Backoff()
    delays = [backoff(failure(OSError(), attempt)) for attempt in range(1, 9)]
    assert draws == [(0, limit) for limit in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("attempt", [1025, 10**6, 10**300])
def test_backoff_many_attempts_does_not_overflow(
    draws: list[tuple[float, float]], attempt: int
) -> None:
    assert Backoff()(failure(OSError(), attempt)) == 30
    assert Backoff(initial=0)(failure(OSError(), attempt)) == 0
    assert Backoff(initial=10**400)(failure(OSError(), attempt)) == 30
    assert Backoff(factor=1)(failure(OSError(), attempt)) == 0.5
    assert Backoff(factor=10**400)(failure(OSError(), attempt)) == 30
    assert Backoff(maximum=math.inf)(failure(OSError(), attempt)) == sys.float_info.max / 2


def test_backoff_delay_is_uniform() -> None:
    chance = random.getstate()
    try:
        random.seed(1)
        delays = [Backoff()(failure(OSError(), 3)) or 0 for _ in range(2000)]
    finally:
        random.setstate(chance)
    counts = [sum(low <= delay < low + 1 for delay in delays) for low in range(4)]
    assert sum(counts) == 2000
    assert all(400 < count < 600 for count in counts)


def test_backoff_adds_retry_after(draws: list[tuple[float, float]]) -> None:
    assert Backoff()(rejected(503, (b"retry-after", b"7"))) == 7.5


def test_backoff_permanent_failure_gives_up() -> None:
    assert Backoff()(rejected(404)) is None
    assert Backoff()(failure(ValueError())) is None


@pytest.mark.parametrize("code", [1012, 1013])
def test_backoff_received_overload_code_waits_longer(
    draws: list[tuple[float, float]], code: int
) -> None:
    assert Backoff()(failure(closed(code))) == 17.5
    assert draws == [(0, 1), (5, 30)]
    assert Backoff()(failure(closed(code), attempt=9)) == 30  # more than the 17.5
    assert Backoff()(failure(closed(code, is_rcvd=False))) == 0.5
    assert Backoff()(failure(closed(1001))) == 0.5


def test_backoff_reconnect_because_of_overload_code_waits_longer(
    draws: list[tuple[float, float]],
) -> None:
    exc = Reconnect()
    assert Backoff()(failure(exc)) == 0.5
    exc.__context__ = closed(1012)
    assert Backoff()(failure(exc)) == 17.5


def test_backoff_give_up_after_limits_outage(draws: list[tuple[float, float]]) -> None:
    backoff = Backoff(give_up_after=10)
    assert backoff(failure(OSError(), 1, 9.5)) == 0.5
    assert backoff(failure(OSError(), 1, 9.6)) is None


@pytest.mark.parametrize("name", ["initial", "factor", "maximum", "give_up_after"])
def test_backoff_bad_argument_raises(name: str) -> None:
    bad: Any
    for bad in ("1", None):
        with pytest.raises(TypeError, match=f"^{name} must be a number"):
            Backoff(**{name: bad})
    for bad in (-1, math.nan):
        with pytest.raises(ValueError, match=f"^{name} must be 0 or more"):
            Backoff(**{name: bad})
    if name in {"initial", "factor"}:
        with pytest.raises(ValueError, match=f"^{name} must be a finite number, not inf"):
            Backoff(**{name: math.inf})
    with pytest.raises(ValueError, match=r"^factor must be 1 or more, not 0\.5"):
        Backoff(factor=0.5)
