"""Arbitrary Sec-WebSocket-Extensions headers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from support.deflating import WIDE
from trio_websocket._sansio.extensions import (
    PerMessageDeflate,
    answer,
    check_answer,
)

deterministic = settings(derandomize=True, deadline=None, database=None, max_examples=60)


@deterministic
@pytest.mark.no_cover
@given(st.lists(st.one_of(st.binary(), st.text(' ,;="\\abp\t\xe4').map(lambda t: t.encode()))))
def test_answer_arbitrary_headers_raises_value_error_only(values: list[bytes]) -> None:
    for negotiate in (answer, check_answer):
        try:
            negotiate(values, WIDE)
        except ValueError:
            pass


PARAMETERS = st.sampled_from(
    [
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_max_window_bits",
        "client_max_window_bits",
        "foo",
    ]
)

VALUES = st.sampled_from(
    ["", "", "=8", "=9", "=12", '="10"', "=15", '="1\\5"', "=7", "=16", "=08", "=+9"]
)

HEADERS = st.lists(
    st.lists(st.tuples(PARAMETERS, VALUES), max_size=4).map(
        lambda pairs: "; ".join(["permessage-deflate", *map("".join, pairs)])
    ),
    max_size=4,
).map(lambda offers: [", ".join(offers).encode()])


@deterministic
@pytest.mark.no_cover
@given(HEADERS, st.integers(9, 15), st.booleans())
def test_answer_plausible_headers_is_consistent(
    values: list[bytes], bits: int, takeover: bool
) -> None:
    settings = PerMessageDeflate(window_bits=bits, context_takeover=takeover)
    result = answer(values, settings)
    if result is not None:
        agreed = result[1]
        assert 9 <= agreed.server_max_window_bits <= bits
        assert 8 <= agreed.client_max_window_bits <= 15
    try:
        accepted = check_answer(values, settings)
    except ValueError:
        return
    if accepted is not None:
        assert 8 <= accepted.server_max_window_bits <= 15
        assert 9 <= accepted.client_max_window_bits <= bits
