"""`Failure` describes a failed attempt to connect, and `Backoff` chooses the delay after it."""

from __future__ import annotations

import dataclasses
import email.utils
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

# Exceptions that may hold an HTTP response. A `ProxyError` holds one only if the proxy sent one.
_RESPONSES = (ConnectionRejected, ProxyError)
# Another attempt may succeed after these statuses of a server or a proxy (RFC 9110, 15; RFC 8470;
# RFC 6585). After other statuses from 300 on, it fails again.
_TRANSIENT_ERRORS = frozenset({408, 425, 429})
_PERMANENT_SERVER_ERRORS = frozenset({501, 505})
_STATUSES_WITH_RETRY_AFTER = frozenset({429, 503})
_MAX_RETRY_AFTER = 3600
# The server restarts, or has too many clients: it needs time, and its clients must not return all
# at once (RFC 6455, 7.4, and the registry of IANA).
_OVERLOAD_CODES = frozenset({CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER})
_OVERLOAD_DELAY = 5, 30


@dataclasses.dataclass(frozen=True)
class Failure:
    """A failed attempt to connect, or the loss of a connection, in :func:`stay_connected`."""

    #: The error of the attempt; or :exc:`ConnectionClosed`, or :exc:`Reconnect`.
    exception: Exception
    #: The number of seconds that the session lasted. It is 0 if the connection was never open.
    open_seconds: float
    #: The number of failures in this outage, with this one: 1 for the first.
    attempt: int
    #: The number of seconds since the outage began.
    outage_seconds: float

    @property
    def is_permanent(self) -> bool:
        """True if another attempt would fail in the same way.

        That is so after these errors:

        * The server, or a proxy, answered with a final HTTP status of 300 or more, except 408, 425,
          429 and 5xx; among these, 501 and 505 are permanent, too.
        * Either side refused its peer's certificate.
        * The exception is not an OSError, :exc:`HandshakeError`, :exc:`ConnectionClosed` or
          :exc:`Reconnect`.
        """
        exc = self.exception
        if not isinstance(exc, (OSError, HandshakeError, ConnectionClosed, Reconnect)):
            return True
        code = exc.status_code if isinstance(exc, _RESPONSES) else None
        return _is_permanent_status(code) or _is_certificate_error(exc)

    @property
    def retry_after(self) -> float | None:
        """The number of seconds for which the server, or a proxy, asked with status 429 or 503.

        It is at most 3600, and None without a valid ``Retry-After`` header (RFC 9110, 10.2.3). A
        date is compared with the ``Date`` of the response, as the clocks may differ.
        """
        exc = self.exception
        if isinstance(exc, _RESPONSES) and exc.status_code in _STATUSES_WITH_RETRY_AFTER:
            return _parse_retry_after(exc.headers)
        return None


@dataclasses.dataclass(frozen=True)
class Backoff:
    """The default for ``retry`` of :func:`stay_connected`: exponential backoff with full jitter.

    The delay is a random number of seconds between 0 and a limit, so that the clients of a server
    that restarts don't all return at the same time. The limit grows with each failure of an outage:
    ``min(maximum, initial * factor ** (attempt - 1))``. It also holds that:

    * If the server asked for a delay with ``Retry-After``, it is added.
    * After a Close frame with code 1012 (service restart) or 1013 (try again later), the delay is
      at least a random number between 5 and 30 seconds.
    * If the failure is permanent (see :attr:`Failure.is_permanent`), or the delay would make the
      outage longer than ``give_up_after``, there is no further attempt.
    """

    #: The limit of the first delay, in seconds.
    initial: float = 1
    #: The growth of the limit with each further failure.
    factor: float = 2
    #: The greatest limit, in seconds.
    maximum: float = 60
    #: The number of seconds after which to give up.
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
        except OverflowError:  # after 1024 failures with the defaults
            limit = math.inf if self.initial else 0
        return min(self.maximum, limit, sys.float_info.max)


def _is_permanent_status(code: int | None) -> bool:
    if code is None or not 300 <= code <= 599:
        return False
    return code in _PERMANENT_SERVER_ERRORS if code >= 500 else code not in _TRANSIENT_ERRORS


def _is_certificate_error(exc: BaseException | None) -> bool:
    """Return True if either side has refused the certificate of its peer.

    The peer's refusal is an alert of TLS (RFC 8446, 6.2). OpenSSL has one of these words in the
    name of each such alert.
    """
    while exc is not None:
        reason = getattr(exc, "reason", None) if isinstance(exc, ssl.SSLError) else None
        if reason is not None and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            return True
        exc = exc.__cause__
    return False


def _is_overloaded(exc: BaseException | None) -> bool:
    if isinstance(exc, Reconnect):  # raised because of the Close frame, perhaps
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
    """Return a date of HTTP (RFC 9110, 5.6.7) as seconds since the epoch, or None for no date."""
    try:
        fields = email.utils.parsedate_tz(value.decode("latin-1"))
        return None if fields is None else email.utils.mktime_tz(fields)
    except Exception:  # the parser raises errors of many types for malformed dates
        return None
