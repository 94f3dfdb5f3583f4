"""`Failure` describes a failed attempt to connect, and `Backoff` chooses the delay after it."""

from __future__ import annotations

import dataclasses
import math
import random
import ssl
import sys
from typing import Iterable

from .._sansio.errors import (
    CloseCode,
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    ProxyError,
    Reconnect,
)
from .._sansio.handshake import header_values
from .._sansio.options import check_number

# Exceptions that can carry an HTTP response. A `ProxyError` carries one only if the proxy sent it.
_RESPONSES = (ConnectionRejected, ProxyError)
# The 4xx statuses after which another attempt may succeed (RFC 9110, 15; RFC 8470; RFC 6585). All
# other 3xx and 4xx statuses are permanent.
_TRANSIENT_ERRORS = frozenset({408, 425, 429})
_PERMANENT_SERVER_ERRORS = frozenset({501, 505})
_STATUSES_WITH_RETRY_AFTER = frozenset({429, 503})
_MAX_RETRY_AFTER = 3600
# The close codes of a server that is restarting or overloaded (RFC 6455, 7.4, and the IANA
# registry). Such a server needs time, and its clients must not all reconnect at once.
_OVERLOAD_CODES = frozenset({CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER})
_OVERLOAD_DELAY = 5, 30


@dataclasses.dataclass(frozen=True)
class Failure:
    """A failed attempt to connect, or a lost connection, in :func:`stay_connected`."""

    #: The error that the attempt raised; for a lost connection, :exc:`ConnectionClosed` or
    #: :exc:`Reconnect`.
    exception: Exception
    #: How long the session lasted, in seconds; 0 if the connection was never open.
    open_seconds: float
    #: The number of failures in this outage, including this one: 1 for the first.
    attempt: int
    #: The time since the outage began, in seconds.
    outage_seconds: float

    @property
    def is_permanent(self) -> bool:
        """True if another attempt would fail in the same way.

        These errors are permanent:

        * The server or a proxy answered with HTTP status 501, 505, any 3xx, or any 4xx other than
          408, 425 and 429.
        * Either side rejected the other's certificate.
        * The exception is not an OSError, a :exc:`HandshakeError`, :exc:`ConnectionClosed` or
          :exc:`Reconnect`.
        """
        exc = self.exception
        if not isinstance(exc, (OSError, HandshakeError, ConnectionClosed, Reconnect)):
            return True
        code = exc.status_code if isinstance(exc, _RESPONSES) else None
        return _is_permanent_status(code) or _is_certificate_error(exc)

    @property
    def retry_after(self) -> float | None:
        """The delay in seconds that the server or a proxy requested with status 429 or 503.

        It is at most 3600, or None without a valid ``Retry-After`` header (RFC 9110, 10.2.3). A
        date is compared with the response's ``Date`` header, because the two clocks may differ.
        """
        exc = self.exception
        if isinstance(exc, _RESPONSES) and exc.status_code in _STATUSES_WITH_RETRY_AFTER:
            return _parse_retry_after(exc.headers)
        return None


@dataclasses.dataclass(frozen=True)
class Backoff:
    """The default ``retry`` policy of :func:`stay_connected`: exponential backoff with full jitter.

    The delay is a random number of seconds between 0 and a limit, so that clients don't all
    reconnect at the same time after a server restart. The limit grows with each failure in an
    outage: ``min(maximum, initial * factor ** (attempt - 1))``. In addition:

    * If the server requested a delay with ``Retry-After``, that delay is added.
    * After a Close frame with code 1012 (service restart) or 1013 (try again later), the delay is
      at least a random number between 5 and 30 seconds.
    * If the failure is permanent (see :attr:`Failure.is_permanent`), or the delay would extend the
      outage beyond ``give_up_after``, there is no further attempt.
    """

    #: The limit for the first delay, in seconds.
    initial: float = 1
    #: The factor by which the limit grows with each further failure.
    factor: float = 2
    #: The maximum value of the limit, in seconds.
    maximum: float = 60
    #: The length of an outage after which to give up, in seconds.
    give_up_after: float = math.inf

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_number(field.name, getattr(self, field.name))
        for name in ("initial", "factor"):
            if getattr(self, name) == math.inf:
                raise ValueError(f"{name} must be a finite number, not inf")
        if self.factor < 1:
            raise ValueError(f"factor must be 1 or more, not {self.factor!r}")

    def __call__(self, failure: Failure) -> float | None:
        """Return the number of seconds to wait before the next attempt, or None to give up."""
        if failure.is_permanent:
            return None
        delay = (failure.retry_after or 0) + random.uniform(0, self._limit(failure.attempt))  # noqa: S311 # no secret
        if _is_overloaded(failure.exception):
            delay = max(delay, random.uniform(*_OVERLOAD_DELAY))  # noqa: S311 # no secret
        return None if failure.outage_seconds + delay > self.give_up_after else delay

    def _limit(self, attempt: int) -> float:
        try:
            limit = self.initial * float(self.factor) ** (attempt - 1)
        except OverflowError:  # with the defaults, after 1024 failures
            limit = math.inf if self.initial else 0
        return min(self.maximum, limit, sys.float_info.max)


def _is_permanent_status(code: int | None) -> bool:
    if code is None or not 300 <= code <= 599:
        return False
    return code in _PERMANENT_SERVER_ERRORS if code >= 500 else code not in _TRANSIENT_ERRORS


def _is_certificate_error(exc: BaseException | None) -> bool:
    """Return True if either side rejected the other's certificate.

    The peer reports a rejection in a TLS alert (RFC 8446, 6.2). OpenSSL's name for each of these
    alerts contains one of the words below.
    """
    while exc is not None:
        reason = getattr(exc, "reason", None) if isinstance(exc, ssl.SSLError) else None
        if reason is not None and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            return True
        exc = exc.__cause__
    return False


def _is_overloaded(exc: BaseException | None) -> bool:
    if isinstance(exc, Reconnect):  # the session may have raised it because of a Close frame
        exc = exc.__context__
    rcvd = exc.rcvd if isinstance(exc, ConnectionClosed) else None
    return rcvd is not None and rcvd.code in _OVERLOAD_CODES


def _parse_retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    dates = header_values(headers, b"date")
    for value in header_values(headers, b"retry-after"):
        if value.isdigit():
            digits = value.lstrip(b"0")[:10]  # Python refuses to convert thousands of digits
            return min(int(digits or b"0"), _MAX_RETRY_AFTER)
        moment, now = _parse_date(value), _parse_date(dates[0] if dates else b"")
        if moment is not None and now is not None:
            return min(max(0, moment - now), _MAX_RETRY_AFTER)
    return None


def _parse_date(value: bytes) -> float | None:
    """Parse an HTTP date (RFC 9110, 5.6.7); return seconds since the epoch, or None if invalid."""
    import email.utils  # noqa: PLC0415 # it takes 4 ms, and few programs need it

    try:
        fields = email.utils.parsedate_tz(value.decode("latin-1"))
        return None if fields is None else email.utils.mktime_tz(fields)
    except Exception:  # the parser raises errors of many types for malformed dates
        return None
