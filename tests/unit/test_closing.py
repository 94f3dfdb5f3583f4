from __future__ import annotations

import itertools

import pytest

from trio_websocket import CloseReason
from trio_websocket._sansio.closing import TRANSITIONS, ClosingHandshake, Event, State

OURS, THEIRS = CloseReason(1000, "ours"), CloseReason(4000, "theirs")
ERROR = OSError("gone")


def apply(closing: ClosingHandshake, event: Event) -> None:
    if event is Event.OPEN:
        closing.open()
    elif event is Event.SEND_CLOSE:
        if closing.is_open:
            closing.start(OURS)
    elif event is Event.RECEIVE_CLOSE:
        if closing.state in (State.OPEN, State.CLOSING):
            closing.receive(THEIRS, THEIRS)
    elif event is Event.FAIL:
        closing.fail(ERROR, OURS)
    else:
        closing.lose(ERROR)


def test_transitions_have_every_state_and_end_in_closed() -> None:
    assert set(TRANSITIONS) == set(State)
    assert not TRANSITIONS[State.CLOSED]
    reached = {to for moves in TRANSITIONS.values() for to in moves.values()}
    assert reached == set(State) - {State.CONNECTING}


@pytest.mark.parametrize("events", [*itertools.product(Event, repeat=4)])
def test_state_after_any_events_is_as_in_the_table(events: tuple[Event, ...]) -> None:
    closing = ClosingHandshake(State.CONNECTING)
    expected = State.CONNECTING
    for event in events:
        before = closing.outcome
        apply(closing, event)
        expected = TRANSITIONS[expected].get(event, expected)
        assert closing.state is expected
        assert closing.ended == (expected is State.CLOSED)
        assert closing.is_open == (expected is State.OPEN)
        if before != ClosingHandshake().outcome:
            assert closing.outcome is before  # it is set once
        has_outcome = closing.rcvd is not None or closing.error is not None
        assert has_outcome == closing.ended
        assert closing.rcvd is None or closing.error is None
        if expected is State.CLOSING:
            assert closing.sent is not None


@pytest.mark.parametrize("is_started", [False, True])
def test_receive_answers_the_first_close_frame_only(is_started: bool) -> None:
    closing = ClosingHandshake()
    if is_started:
        closing.start(OURS)
    assert closing.receive(THEIRS, THEIRS) == (not is_started)
    assert closing.sent == (OURS if is_started else THEIRS)
    assert closing.reason == closing.sent


def test_fail_after_the_end_sends_nothing() -> None:
    closing = ClosingHandshake()
    closing.lose(ERROR)
    assert not closing.fail(OSError("later"), OURS)
    assert closing.error is ERROR
    assert closing.sent is None


@pytest.mark.parametrize("end", [Event.SEND_CLOSE, Event.RECEIVE_CLOSE, Event.FAIL, Event.LOSE])
def test_reason_is_the_same_object_in_each_exception(end: Event) -> None:
    closing, other = ClosingHandshake(), ClosingHandshake()
    apply(closing, end)
    other.lose(ERROR)
    reason = closing.reason
    apply(closing, Event.LOSE)
    assert closing.closed_error().reason is closing.closed_error().reason is reason
    assert closing.closed_error().reason is not other.closed_error().reason
