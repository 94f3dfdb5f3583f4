"""Arbitrary changes of a request."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from support.handshakes import (
    a_request,
    outcome,
)


@pytest.mark.no_cover
@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255), st.booleans()), max_size=4))
def test_server_handshake_changed_request_same_in_parts(
    changes: list[tuple[int, int, bool]],
) -> None:
    data = bytearray(a_request(body=b"\x81\x80\0\0\0\0"))
    for place, byte, is_inserted in changes:
        data[place : place + (not is_inserted)] = bytes((byte,))
    changed = bytes(data)
    assert outcome(changed) == outcome(changed[:1], changed[1:])
