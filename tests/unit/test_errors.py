"""The exceptions of the library, close reasons and close codes."""

from __future__ import annotations

import copy
import enum
import pickle
import re
import sys
from typing import Any, Callable

import pytest

import trio_websocket
from trio_websocket import (
    BroadcastResult,
    CloseCode,
    CloseReason,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    ConnectionStatistics,
    ConnectionTimeout,
    DeflateParameters,
    DisconnectionTimeout,
    Endpoint,
    HandshakeError,
    PerMessageDeflate,
    RedirectError,
)
from trio_websocket._io.groups import exception_to_raise, flatten_group, strip_closed, unwrap_single
from trio_websocket._sansio.errors import MessageTypeError, check_close_code

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Code(enum.IntEnum):
    NORMAL = 1000


def test_version_is_in_range_of_dependents() -> None:
    # they pin >=0.12.2,<1.0
    assert re.fullmatch(r"0\.(1[3-9]|[2-9]\d)\.\d+(\.dev\d+)?", trio_websocket.__version__)


# Close reasons


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (1000, "NORMAL_CLOSURE"),
        (1001, "GOING_AWAY"),
        (1002, "PROTOCOL_ERROR"),
        (1003, "UNSUPPORTED_DATA"),
        (1004, "RFC_RESERVED"),
        (1005, "NO_STATUS_RCVD"),
        (1006, "ABNORMAL_CLOSURE"),
        (1007, "INVALID_FRAME_PAYLOAD_DATA"),
        (1008, "POLICY_VIOLATION"),
        (1009, "MESSAGE_TOO_BIG"),
        (1010, "MANDATORY_EXT"),
        (1011, "INTERNAL_ERROR"),
        (1012, "SERVICE_RESTART"),
        (1013, "TRY_AGAIN_LATER"),
        (1014, "BAD_GATEWAY"),
        (1015, "TLS_HANDSHAKE_FAILED"),
        (1016, "RFC_RESERVED"),
        (2999, "RFC_RESERVED"),
        (3000, "IANA_RESERVED"),
        (3999, "IANA_RESERVED"),
        (4000, "PRIVATE_RESERVED"),
        (4999, "PRIVATE_RESERVED"),
        (0, "INVALID_CODE"),
        (999, "INVALID_CODE"),
        (5000, "INVALID_CODE"),
    ],
)
def test_close_reason_name_is_of_registry_or_range(code: int, name: str) -> None:
    assert CloseReason(code, None).name == name


def test_close_reason_has_code_and_text() -> None:
    reason = CloseReason(4001, "out of credit")
    assert (reason.code, reason.reason) == (4001, "out of credit")


def test_close_code_has_the_numbers_of_the_registry() -> None:
    assert {code.name: code.value for code in CloseCode} == {
        "NORMAL_CLOSURE": 1000,
        "GOING_AWAY": 1001,
        "PROTOCOL_ERROR": 1002,
        "UNSUPPORTED_DATA": 1003,
        "NO_STATUS_RCVD": 1005,
        "ABNORMAL_CLOSURE": 1006,
        "INVALID_FRAME_PAYLOAD_DATA": 1007,
        "POLICY_VIOLATION": 1008,
        "MESSAGE_TOO_BIG": 1009,
        "MANDATORY_EXT": 1010,
        "INTERNAL_ERROR": 1011,
        "SERVICE_RESTART": 1012,
        "TRY_AGAIN_LATER": 1013,
        "BAD_GATEWAY": 1014,
        "TLS_HANDSHAKE_FAILED": 1015,
    }


def test_close_reason_code_is_int() -> None:
    assert type(CloseReason(Code.NORMAL, None).code) is int


def test_close_reason_equal_code_and_text_is_equal() -> None:
    assert CloseReason(1000, "bye") == CloseReason(1000, "bye")
    assert len({CloseReason(1000, "bye"), CloseReason(1000, "bye")}) == 1


@pytest.mark.parametrize("other", [CloseReason(1001, "bye"), CloseReason(1000, None), 1000])
def test_close_reason_differs_from_others(other: object) -> None:
    assert CloseReason(1000, "bye") != other


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (CloseReason(1000, None), "CloseReason<code=1000, name=NORMAL_CLOSURE, reason=None>"),
        (CloseReason(4001, "bye"), "CloseReason<code=4001, name=PRIVATE_RESERVED, reason=bye>"),
    ],
)
def test_close_reason_repr_is_of_0_12(reason: CloseReason, text: str) -> None:
    assert repr(reason) == text


# Close codes


@pytest.mark.parametrize(
    "code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999, Code.NORMAL]
)
def test_check_code_valid_is_accepted(code: int) -> None:
    check_close_code(code)


@pytest.mark.parametrize(
    "code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 70000, True]
)
def test_check_code_invalid_raises(code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code} must not be sent"):
        check_close_code(code)


@pytest.mark.parametrize("code", [None, "1000", 1000.0])
def test_check_code_not_int_raises(code: object) -> None:
    with pytest.raises(TypeError, match="code must be an int"):
        check_close_code(code)


# Exceptions


@pytest.mark.parametrize(
    ("exception", "base"),
    [
        (ConnectionTimeout, HandshakeError),
        (DisconnectionTimeout, HandshakeError),
        (ConnectionRejected, HandshakeError),
        (ConnectionFailed, HandshakeError),
        (ConnectionFailed, OSError),
        (RedirectError, ConnectionRejected),
        (ConnectionTimeout, TimeoutError),
        (MessageTypeError, TypeError),
        (MessageTypeError, ValueError),
    ],
)
def test_exceptions_are_subclasses(exception: type[Exception], base: type[Exception]) -> None:
    assert issubclass(exception, base)


@pytest.mark.parametrize("exception", [ConnectionRejected, ConnectionClosed, DisconnectionTimeout])
def test_exceptions_not_of_network_are_no_os_errors(exception: type[Exception]) -> None:
    assert not issubclass(exception, OSError)


def test_connection_closed_is_no_handshake_error() -> None:
    assert not issubclass(ConnectionClosed, HandshakeError)


def test_connection_rejected_has_status_headers_body() -> None:
    exc = ConnectionRejected(403, ((b"x", b"y"),), b"no entry")
    assert (exc.status_code, exc.headers, exc.body) == (403, ((b"x", b"y"),), b"no entry")


def test_connection_rejected_str_shows_status() -> None:
    exc = ConnectionRejected(403, (), None)
    assert repr(exc) == "ConnectionRejected<status_code=403>"
    assert str(exc) == "the server rejected the connection with HTTP status 403"


def test_rejection_in_text_shows_phrase_and_body_escaped() -> None:
    exc = ConnectionRejected(403, (), b"no \x1b[31mentry\n\xff\n", reason_phrase="Stay\rout")
    text = "the server rejected the connection with HTTP status 403 Stay\\rout: "
    assert str(exc) == text + r"no \x1b[31mentry\n\xff"
    assert len(str(ConnectionRejected(403, (), b"x" * 10_000))) < 300


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (ConnectionClosed(CloseReason(4000, "a\nb")), r"4000 PRIVATE_RESERVED: a\nb"),
        (
            ConnectionClosed(CloseReason(1000, None), closer="closed by the peer"),
            "1000 NORMAL_CLOSURE (closed by the peer)",
        ),
    ],
)
def test_connection_closed_in_text_says_who_closed(exc: ConnectionClosed, text: str) -> None:
    assert str(exc) == text


def failed() -> ConnectionFailed:
    exc = ConnectionFailed("can't connect")
    exc.errno = 111
    return exc


@pytest.mark.parametrize(
    "exc",
    [
        HandshakeError("text"),
        failed(),
        ConnectionTimeout("text"),
        DisconnectionTimeout("text"),
        ConnectionRejected(403, ((b"a", b"b"),), b"body", reason_phrase="No"),
        RedirectError(302, ((b"a", b"b"),), b"body", urls=("ws://a/", "ws://b/"), rule="too far"),
        ConnectionClosed(
            CloseReason(1000, "bye"),
            rcvd=CloseReason(1000, None),
            sent=CloseReason(1000, "bye"),
            closer="closed by the peer",
        ),
    ],
)
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda exc: pickle.loads(pickle.dumps(exc))]
)
def test_exceptions_when_copied_keep_everything(
    exc: Exception, copied: Callable[[Exception], Exception]
) -> None:
    exc.add_to = "a note"  # type: ignore[attr-defined] # as applications may
    other = copied(exc)
    assert type(other) is type(exc)
    assert (str(other), repr(other)) == (str(exc), repr(exc))
    assert other.__dict__ == exc.__dict__
    assert getattr(other, "errno", None) == getattr(exc, "errno", None)


def test_connection_closed_has_rcvd_and_sent() -> None:
    ours, theirs = CloseReason(1000, None), CloseReason(1001, "gone")
    exc = ConnectionClosed(ours, rcvd=theirs, sent=ours)
    assert (exc.reason, exc.rcvd, exc.sent) == (ours, theirs, ours)


def test_connection_closed_by_position_has_reason_only() -> None:
    exc = ConnectionClosed(CloseReason(1006, None))
    assert (exc.reason, exc.rcvd, exc.sent) == (CloseReason(1006, None), None, None)


def test_connection_closed_repr_is_of_0_12() -> None:
    exc = ConnectionClosed(CloseReason(1000, None))
    assert repr(exc) == (
        "ConnectionClosed<CloseReason<code=1000, name=NORMAL_CLOSURE, reason=None>>"
    )


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (CloseReason(1000, None), "1000 NORMAL_CLOSURE"),
        (CloseReason(1006, "connection reset"), "1006 ABNORMAL_CLOSURE: connection reset"),
        (None, "1006 ABNORMAL_CLOSURE"),
    ],
)
def test_connection_closed_str_says_why(reason: CloseReason | None, text: str) -> None:
    assert str(ConnectionClosed(reason)) == text


def test_connection_closed_without_a_reason_has_code_1006() -> None:
    exc = ConnectionClosed(None)
    assert exc.reason == CloseReason(1006, None)
    assert pickle.loads(pickle.dumps(exc)).reason == exc.reason


def with_attributes(exc: Exception, **attributes: object) -> Exception:
    for name, value in attributes.items():
        setattr(exc, name, value)
    return exc


COPIERS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda original: pickle.loads(pickle.dumps(original)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
OS_ATTRIBUTES = ("errno", "strerror", "filename", "filename2")


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
@pytest.mark.parametrize(
    "exc",
    [
        HandshakeError("no"),
        ConnectionFailed("refused"),
        ConnectionFailed(111, "refused"),
        ConnectionFailed(111, "refused", "/run/socket"),
        with_attributes(ConnectionFailed("refused"), errno=111, mine=[1]),
        ConnectionTimeout("late"),
        with_attributes(ConnectionTimeout("late"), errno=110),
        DisconnectionTimeout("late"),
        ConnectionRejected(403, ((b"x", b"y"),), b"no entry"),
        ConnectionRejected(status_code=403, headers=(), body=None),
        ConnectionClosed(reason=CloseReason(1000, None)),
        with_attributes(
            ConnectionClosed(
                CloseReason(1000, None), rcvd=CloseReason(1000, None), sent=CloseReason(1000, "bye")
            ),
            mine=[1],
        ),
        MessageTypeError("no"),
    ],
    ids=repr,
)
def test_exceptions_copied_keep_attributes(exc: Exception, copier: Callable[[Any], Any]) -> None:
    twin = copier(exc)
    assert (type(twin), twin.args, vars(twin)) == (type(exc), exc.args, vars(exc))
    assert (str(twin), repr(twin)) == (str(exc), repr(exc))
    for name in OS_ATTRIBUTES:
        assert getattr(twin, name, None) == getattr(exc, name, None)


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
@pytest.mark.parametrize(
    "result",
    [
        CloseReason(4001, "bye"),
        Endpoint("::1", 80, is_ssl=True),
        PerMessageDeflate(10),
        DeflateParameters(
            server_max_window_bits=9,
            client_max_window_bits=10,
            server_no_context_takeover=True,
            client_no_context_takeover=False,
        ),
        ConnectionStatistics(*range(14)),
        BroadcastResult(frozenset(), {}),
    ],
    ids=lambda result: type(result).__name__,
)
def test_results_copied_are_equal(result: object, copier: Callable[[Any], Any]) -> None:
    assert copier(result) == result


@pytest.mark.parametrize(
    ("base", "arguments"),
    [
        (ConnectionClosed, (CloseReason(1000, None),)),
        (ConnectionRejected, (403, (), None)),
        (HandshakeError, ()),
    ],
)
def test_exceptions_can_be_subclassed(base: type[Exception], arguments: tuple[object, ...]) -> None:
    subclass = type("Ours", (base,), {})
    exc = subclass(*arguments)
    assert isinstance(exc, base)
    assert repr(exc).startswith("Ours")


# Groups


def test_flatten_group_gives_leaves_in_order() -> None:
    first, second, third = KeyError(1), KeyboardInterrupt(), KeyError(3)
    group = BaseExceptionGroup("", [first, BaseExceptionGroup("", [second]), third])
    assert flatten_group(group) == [first, second, third]


def test_unwrap_single_member_may_be_a_group() -> None:
    first, second = KeyError(1), ExceptionGroup("", [KeyError(2)])
    group = ExceptionGroup("", [first, second])
    assert unwrap_single(group) is group
    assert unwrap_single(ExceptionGroup("", [second])) is second


def test_flatten_group_no_group_gives_itself() -> None:
    exc = KeyError()
    assert flatten_group(exc) == [exc]
    assert unwrap_single(exc) is exc


LOST = ConnectionClosed(CloseReason(1006, None))
LATE = DisconnectionTimeout("late")
STOP = KeyboardInterrupt()
BUG = KeyError("bug")


@pytest.mark.parametrize("exc", [LOST, LATE, ExceptionGroup("", [LOST, LATE])])
def test_strip_closed_connection_closed_gives_none(exc: Exception) -> None:
    assert strip_closed(exc) is None


@pytest.mark.parametrize("exc", [BUG, KeyboardInterrupt(), HandshakeError("no")])
def test_strip_closed_other_error_gives_itself(exc: BaseException) -> None:
    assert strip_closed(exc) is exc


@pytest.mark.parametrize(
    ("error", "later", "graver_one"),
    [
        (None, LATE, LATE),
        (BUG, LATE, BUG),
        (BUG, STOP, STOP),
        (STOP, LATE, STOP),
    ],
)
def test_exception_to_raise_prefers_block_except_ctrl_c(
    error: BaseException | None, later: BaseException, graver_one: BaseException
) -> None:
    assert exception_to_raise(error, later) is graver_one


def test_strip_closed_group_gives_other_errors() -> None:
    stop = KeyboardInterrupt()
    group = BaseExceptionGroup("", [LOST, BUG, BaseExceptionGroup("", [LATE, stop])])
    rest = strip_closed(group)
    assert isinstance(rest, BaseExceptionGroup)
    left, inner = rest.exceptions
    assert left is BUG
    assert isinstance(inner, BaseExceptionGroup)
    assert inner.exceptions == (stop,)


def test_close_code_has_the_names_of_the_registry() -> None:
    assert CloseCode(1000) is CloseCode.NORMAL_CLOSURE
    assert CloseReason(CloseCode.GOING_AWAY, None) == CloseReason(1001, None)
    for code in CloseCode:
        assert CloseReason(code, None).name == code.name
        assert type(CloseReason(code, None).code) is int
