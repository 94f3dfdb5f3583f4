"""Exceptions, close codes and close reasons.

If a connection can't be opened, a :exc:`HandshakeError` is raised, which is also an :exc:`OSError`
if the network failed. After an open connection has ended, calls on it raise
:exc:`ConnectionClosed`.
"""

from __future__ import annotations

import enum
import warnings
from typing import Any


class CloseCode(enum.IntEnum):
    """The close codes registered with IANA (RFC 6455, 7.4.1).

    Libraries and frameworks can register codes from 3000 to 3999. Applications can use any code
    from 4000 to 4999.
    """

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_FRAME_PAYLOAD_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXT = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE_FAILED = 1015


_NAMES = {int(code): code.name for code in CloseCode}
_NORMAL = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD})
_RANGES = (
    (range(1000, 3000), "RFC_RESERVED"),
    (range(3000, 4000), "IANA_RESERVED"),
    (range(4000, 5000), "PRIVATE_RESERVED"),
)
_NORMAL = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD})
# These codes describe how a connection ended. No Close frame may contain them (RFC 6455, 7.4.1).
_LOCAL_ONLY = frozenset(
    {CloseCode.NO_STATUS_RCVD, CloseCode.ABNORMAL_CLOSURE, CloseCode.TLS_HANDSHAKE_FAILED}
)


def printable(text: str, limit: int = 200) -> str:
    """Escape and truncate text from a peer, for use in a log record or an exception.

    A line break could forge a log record, and an escape sequence could control a terminal. So all
    non-printable characters are escaped, as in ``repr()``.

    :param limit: The maximum number of characters to keep, before escaping.
    """
    shown = text[:limit]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)
    return shown if len(text) <= limit else f"{shown}..."


def describe(exc: BaseException) -> str:
    """Return an exception's text, or the name of its type if the text is empty.

    The name is also used if the exception's ``__str__`` method raises.
    """
    try:
        text = str(exc)
    except Exception:
        text = ""
    return text or type(exc).__name__


def safe_repr(value: object) -> str:
    """Return the ``repr()`` of an object, or a text that names its type if ``repr()`` raises."""
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__} whose repr() failed>"


class CloseReason:
    """Why a connection was closed: a close code and a text (RFC 6455, 7.4).

    Two reasons are equal if their codes and texts are equal.
    """

    def __init__(self, code: int, reason: str | None) -> None:
        """
        :param code: The close code.
        :param reason: The text of the Close frame, or None. With code 1006, there was no Close
            frame, and the text says how the connection was lost.
        """
        self._code = int(code)
        self._reason = reason

    @property
    def code(self) -> int:
        """The close code: 1000 for a normal close, 1006 if there was no Close frame."""
        return self._code

    @property
    def name(self) -> str:
        """The code's registered name, or the name of its range."""
        if self._code in _NAMES:
            return _NAMES[self._code]
        return next((name for codes, name in _RANGES if self._code in codes), "INVALID_CODE")

    @property
    def reason(self) -> str | None:
        """The text that accompanies the code, or None."""
        return self._reason

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CloseReason):
            return NotImplemented
        return (self._code, self._reason) == (other._code, other._reason)

    def __hash__(self) -> int:
        return hash((self._code, self._reason))

    def __repr__(self) -> str:
        reason = None if self._reason is None else printable(self._reason)
        return f"{type(self).__name__}<code={self._code}, name={self.name}, reason={reason}>"


def check_close_code(code: object) -> None:
    """Raise an exception if ``code`` is not allowed in a Close frame (RFC 6455, 7.4)."""
    if not isinstance(code, int):
        raise TypeError(f"code must be an int, not {code!r:.100}")
    registered = code in _NAMES and code not in _LOCAL_ONLY
    if not (registered or 3000 <= code <= 4999):
        raise ValueError(
            f"close code {code} must not be sent: "
            "use 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455, 7.4)"
        )


def sendable_close(code: int | None, reason: str | None) -> tuple[int, str | None]:
    """Return the code and reason to send, given the arguments of `aclose`.

    If the returned code is 1005, send a Close frame without a code. None, and codes that are not
    allowed in a frame, have the same effect as in 0.12 and cause a warning. Some programs close
    with 1006 in order to reconnect.
    """
    if code is None:
        if reason:
            raise TypeError(f"reason must be None without a code, not {reason!r:.100}")
        text = (
            "aclose(None) sends a Close frame without a code; use aclose(), which sends code 1000"
        )
        warnings.warn(text, DeprecationWarning, stacklevel=3)
        return CloseCode.NO_STATUS_RCVD, None
    if code in _LOCAL_ONLY:
        text = f"aclose({code}) sends code 1000, as no frame may hold {code}; use aclose(1000)"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
        return CloseCode.NORMAL_CLOSURE, reason
    check_close_code(code)
    return code, reason


class HandshakeError(Exception):
    """Base class of the errors that are raised if the opening or closing handshake fails."""


class ConnectionFailed(HandshakeError, OSError):
    """A network or TLS error prevented the opening handshake.

    For example, the host name was not found, the connection was refused or reset, or the
    certificate is not valid. ``__cause__`` is the original error. If that error has an ``errno``,
    this exception has the same one.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_os_attributes(self, super().__reduce__())


class ProxyError(ConnectionFailed):
    """The proxy could not be reached, or it did not open a tunnel to the server.

    If a network or TLS error was the reason, it is the ``__cause__``, and this exception has the
    same ``errno``. No attribute contains the proxy credentials.
    """

    def __init__(
        self,
        message: str,
        *,
        proxy: str = "",
        status_code: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        socks_reply: int | None = None,
    ) -> None:
        """
        :param message: The error message.
        :param proxy: The proxy's URL, without credentials.
        :param status_code: The HTTP status of the proxy's response.
        :param headers: The headers of the response, with lower-case names.
        :param socks_reply: The reply code from a SOCKS proxy.
        """
        super().__init__(message)
        #: The proxy's URL, without credentials.
        self.proxy = proxy
        #: The HTTP status of the proxy's response, or None if there was none.
        self.status_code = status_code
        #: The headers of the response, or ``()`` if there was none.
        self.headers = headers
        #: The reply code from a SOCKS proxy (RFC 1928, 6), or None.
        self.socks_reply = socks_reply


class ConnectionTimeout(HandshakeError, TimeoutError):
    """The connection could not be opened within ``connect_timeout``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_os_attributes(self, super().__reduce__())


def _with_os_attributes(exc: OSError, reduced: Any) -> tuple[Any, ...]:
    """Add an OSError's attributes to the result of ``__reduce__``, for pickle and copy.

    An OSError stores them outside its ``__dict__``, and its own ``__reduce__`` leaves them out.
    """
    kind, args, *state = reduced
    names = ("errno", "strerror", "filename", "filename2")
    attributes = {name: getattr(exc, name) for name in names}
    # Even setting an attribute to None would change the result of str().
    changed = {name: value for name, value in attributes.items() if value is not None}
    return kind, args, {**(state[0] if state else {}), **changed}


class DisconnectionTimeout(HandshakeError):
    """The closing handshake took longer than ``disconnect_timeout``; the stream is closed."""


class ConnectionRejected(HandshakeError):
    """The server answered the opening handshake with a status other than 101."""

    def __init__(
        self,
        status_code: int,
        headers: tuple[tuple[bytes, bytes], ...],
        body: bytes | None,
        *,
        reason_phrase: str = "",
    ) -> None:
        """
        :param status_code: The HTTP status.
        :param headers: The headers of the response, with lower-case names.
        :param body: The part of the body that arrived, up to ``max_rejection_body``; None if the
            server sent only interim responses (1xx).
        :param reason_phrase: The text that follows the status in the response.
        """
        super().__init__(status_code, headers, body)
        #: The HTTP status.
        self.status_code = status_code
        #: The headers of the response.
        self.headers = headers
        #: The body of the response, or None.
        self.body = body
        #: The text that follows the status in the response; it may be empty.
        self.reason_phrase = reason_phrase

    def __repr__(self) -> str:
        return f"{type(self).__name__}<status_code={self.status_code}>"

    def __str__(self) -> str:
        text = f"the server rejected the connection with HTTP status {self.status_code}"
        if self.reason_phrase:
            text += f" {printable(self.reason_phrase)}"
        if self.body:
            text += f": {printable(self.body.decode('utf-8', 'backslashreplace').strip())}"
        return text


class RedirectError(ConnectionRejected):
    """The server sent a redirect that breaks a rule, and ``max_redirects`` is not 0.

    The attributes inherited from :exc:`ConnectionRejected` describe the last response.
    """

    def __init__(
        self,
        status_code: int,
        headers: tuple[tuple[bytes, bytes], ...],
        body: bytes | None,
        *,
        reason_phrase: str = "",
        urls: tuple[str, ...] = (),
        rule: str = "",
    ) -> None:
        """
        :param status_code: As in :exc:`ConnectionRejected`.
        :param headers: As in :exc:`ConnectionRejected`.
        :param body: As in :exc:`ConnectionRejected`.
        :param reason_phrase: As in :exc:`ConnectionRejected`.
        :param urls: The URLs that were requested, without credentials.
        :param rule: A description of the rule that the redirect breaks.
        """
        super().__init__(status_code, headers, body, reason_phrase=reason_phrase)
        #: The URLs that were requested, in order, without credentials.
        self.urls = urls
        self._rule = rule

    def __str__(self) -> str:
        text = f"the redirect with HTTP status {self.status_code} was not followed"
        if self._rule:
            text += f": {self._rule}"
        if self.urls:
            text += f" (requested: {', '.join(printable(url, 100) for url in self.urls[-3:])})"
        return text


class ConnectionClosed(Exception):
    """The connection is closed or closing, so the call failed.

    If a network or protocol error ended the connection, it is the ``__cause__``.
    """

    def __init__(
        self,
        reason: CloseReason | None,
        *,
        rcvd: CloseReason | None = None,
        sent: CloseReason | None = None,
        closer: str = "",
    ) -> None:
        """
        :param reason: Why the connection was closed; None means code 1006.
        :param rcvd: The Close frame that the peer sent, or None.
        :param sent: The Close frame that this side sent, or None.
        :param closer: A phrase that says which side closed, for the end of the message.
        """
        super().__init__(reason)
        #: Why the connection was closed.
        self.reason: CloseReason = (
            CloseReason(CloseCode.ABNORMAL_CLOSURE, None) if reason is None else reason
        )
        #: The peer's Close frame, or None if there was none.
        self.rcvd = rcvd
        #: This side's Close frame, or None if there was none.
        self.sent = sent
        self._closer = closer

    def __repr__(self) -> str:
        return f"{type(self).__name__}<{self.reason!r}>"

    def __str__(self) -> str:
        text = f"{self.reason.code} {self.reason.name}"
        if self.reason.reason:
            text += f": {printable(self.reason.reason)}"
        return f"{text} ({self._closer})" if self._closer else text


class Reconnect(Exception):
    """Raised by a session of :func:`stay_connected` to close the connection and open a new one.

    The connection is closed with code 1000. Reconnecting also works if the exception is inside an
    exception group.
    """


class MessageTypeError(TypeError, ValueError):
    """A message is neither str nor bytes-like.

    This is a TypeError. It is also a ValueError because trio-websocket 0.12 documented that type.
    """


def is_normal(exc: ConnectionClosed) -> bool:
    """Return True if the connection was closed with a Close frame that reports no error."""
    return exc.reason.code in _NORMAL
