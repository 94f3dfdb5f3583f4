"""The negotiation of compression (RFC 7692, 5 and 7.1): settings, headers, offers and answers."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from support.deflating import WIDE, agreed
from trio_websocket._sansio.extensions import (
    DeflateParameters,
    PerMessageDeflate,
    answer,
    check_answer,
    offer,
    parse_extensions,
)

CHROME = b"permessage-deflate; client_max_window_bits"
FIREFOX = b"permessage-deflate"
# The default offer of websockets.
WEBSOCKETS = b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
BOTH_RESETS = b"; server_no_context_takeover; client_no_context_takeover"


# -- settings


def test_per_message_deflate_defaults() -> None:
    settings = PerMessageDeflate()
    assert settings == PerMessageDeflate(12, 5, 6, True, 128)


def test_per_message_deflate_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PerMessageDeflate().level = 1  # type: ignore[misc] # what is tested


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("window_bits", 8, "window_bits must be 9 to 15, not 8"),
        ("window_bits", 16, "window_bits must be 9 to 15, not 16"),
        ("mem_level", 0, "mem_level must be 1 to 9, not 0"),
        ("mem_level", 10, "mem_level must be 1 to 9, not 10"),
        ("level", -2, "level must be -1 to 9, not -2"),
        ("level", 10, "level must be -1 to 9, not 10"),
        ("threshold", -1, "threshold must be 0 or more, not -1"),
    ],
)
def test_per_message_deflate_out_of_range_raises(name: str, value: int, text: str) -> None:
    kwargs: Any = {name: value}
    with pytest.raises(ValueError, match=f"^{text}$"):
        PerMessageDeflate(**kwargs)


@pytest.mark.parametrize("name", ["window_bits", "mem_level", "level", "threshold"])
@pytest.mark.parametrize("value", [9.0, "9", None, True])
def test_per_message_deflate_wrong_type_raises(name: str, value: object) -> None:
    kwargs: Any = {name: value}
    with pytest.raises(TypeError, match=f"^{name} must be an int, not {value!r}$"):
        PerMessageDeflate(**kwargs)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_per_message_deflate_takeover_wrong_type_raises(value: Any) -> None:
    with pytest.raises(TypeError, match=f"^context_takeover must be a bool, not {value!r}$"):
        PerMessageDeflate(context_takeover=value)


@pytest.mark.parametrize("name", ["window_bits", "mem_level", "level", "threshold"])
def test_per_message_deflate_ends_of_ranges_are_accepted(name: str) -> None:
    ends = {"window_bits": (9, 15), "mem_level": (1, 9), "level": (-1, 9), "threshold": (0, 10**9)}
    for value in ends[name]:
        kwargs: Any = {name: value}
        assert getattr(PerMessageDeflate(**kwargs), name) == value


def test_deflate_parameters_repr_shows_values() -> None:
    assert repr(agreed()) == (
        "DeflateParameters(client_max_window_bits=15, server_max_window_bits=15, "
        "client_no_context_takeover=False, server_no_context_takeover=False)"
    )


# -- the header


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([b""], []),
        ([b" ,\t, "], []),
        ([b"a"], [("a", [])]),
        ([b"a, b"], [("a", []), ("b", [])]),
        ([b"a", b"b"], [("a", []), ("b", [])]),
        ([b",a,,b,"], [("a", []), ("b", [])]),
        ([b"a;p"], [("a", [("p", None)])]),
        ([b"a;p=1"], [("a", [("p", "1")])]),
        ([b'a;p="1"'], [("a", [("p", "1")])]),
        ([b'a;p="\\1\\0"'], [("a", [("p", "10")])]),
        ([b"a;p=1;p=2"], [("a", [("p", "1"), ("p", "2")])]),
        ([b' \ta ;\tp = 1 ; q = "2" , b '], [("a", [("p", "1"), ("q", "2")]), ("b", [])]),
        ([b"A;P"], [("A", [("P", None)])]),
        ([b"!#$%&'*+-.^_`|~;p"], [("!#$%&'*+-.^_`|~", [("p", None)])]),
        ([b"foo, bar; baz=2"], [("foo", []), ("bar", [("baz", "2")])]),  # RFC 6455, 9.1
    ],
)
def test_parse_extensions_valid_headers(values: list[bytes], expected: object) -> None:
    assert list(parse_extensions(values)) == expected


@pytest.mark.parametrize(
    "value",
    [
        b";",
        b"a;",
        b"a;,b",
        b"a;;p",
        b"a b",
        b"a;p q",
        b"a=1",
        b'a="1"',
        b"=1",
        b"a;=1",
        b"a;p=",
        b"a;p=;q",
        b"a;p==1",
        b"a;p=1 2",
        b'a;p=""',
        b'a;p="1',
        b'a;p=1"',
        b'a;p="1"2',
        b'a;p="1 "',
        b'a;p="1,2"',
        b'a;p="1\\"',
        b'a;p="\\\\"',
        b'a;p="\\""',
        b'"a"',
        b"a/b",
        b"a;p=(1)",
        b"a\r\n",
        b"a\x00",
        b"a\x7f",
        b"a\xa0",
        b"\xe4",
        b"a;p=\xb2",
        b"a, b, c d",
    ],
)
def test_parse_extensions_malformed_raises(value: bytes) -> None:
    for values in ([value], [b"a", value]):
        with pytest.raises(ValueError, match=r"^Sec-WebSocket-Extensions is malformed"):
            list(parse_extensions(values))
        for negotiate in (answer, check_answer):
            with pytest.raises(ValueError, match=r"^(Sec-WebSocket-Extensions|the server chose)"):
                negotiate(values, WIDE)


@pytest.mark.parametrize(
    ("start", "middle", "end"),
    [
        (b"", b"a", b""),
        (b"", b"a,", b""),
        (b"", b"a;", b""),
        (b"", b"a;b=", b""),
        (b'a;b="', b"c", b""),
        (b'a;b="', b"\\c", b""),
        (b'a;b="', b"\\", b""),
        (b"a", b';b="c"', b""),
        (b"", b" ", b"="),
        (b"a", b" ", b"b"),
        (b"a;b=", b" ", b""),
        (b"a;b=c", b" ", b"d"),
        (b"", b",", b"="),
        (b"", b"permessage-deflate,", b""),
        (b"", b"permessage-deflate; foo,", b""),
        (b"permessage-deflate", b"; foo", b""),
    ],
)
def test_parse_extensions_long_header_in_linear_time(
    start: bytes, middle: bytes, end: bytes
) -> None:
    value = start + middle * (2**16 // len(middle)) + end
    began = time.process_time()
    for negotiate in (answer, check_answer):
        try:
            negotiate([value], WIDE)
        except ValueError as exc:
            assert len(str(exc)) < 1000  # noqa: PT017 # it may be valid
    assert time.process_time() - began < 1


# -- the client's offer


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            PerMessageDeflate(),
            [
                b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
                b"permessage-deflate; client_max_window_bits",
                b"permessage-deflate",
            ],
        ),
        (
            PerMessageDeflate(15),
            [b"permessage-deflate; client_max_window_bits", b"permessage-deflate"],
        ),
        (
            PerMessageDeflate(15, context_takeover=False),
            [
                b"permessage-deflate; client_max_window_bits" + BOTH_RESETS,
                b"permessage-deflate" + BOTH_RESETS,
                b"permessage-deflate; client_max_window_bits",
                b"permessage-deflate",
            ],
        ),
        (
            PerMessageDeflate(context_takeover=False),
            [
                WEBSOCKETS + BOTH_RESETS,
                b"permessage-deflate; client_max_window_bits" + BOTH_RESETS,
                b"permessage-deflate" + BOTH_RESETS,
                b"permessage-deflate; client_max_window_bits",
                b"permessage-deflate",
            ],
        ),
    ],
)
def test_offer_with_fallbacks_has_fewer_parameters_in_each(
    settings: PerMessageDeflate, expected: list[bytes]
) -> None:
    assert offer(settings) == b", ".join(expected)


# -- the server's answer


@pytest.mark.parametrize(
    ("offered", "settings", "expected", "parameters"),
    [
        (CHROME, WIDE, b"", agreed()),
        (FIREFOX, WIDE, b"", agreed()),
        (
            CHROME,
            PerMessageDeflate(),
            b"; server_max_window_bits=12; client_max_window_bits=12",
            agreed(12, 12),
        ),
        (FIREFOX, PerMessageDeflate(), b"; server_max_window_bits=12", agreed(15, 12)),
        (
            WEBSOCKETS,
            PerMessageDeflate(),
            b"; server_max_window_bits=12; client_max_window_bits=12",
            agreed(12, 12),
        ),
        (
            WEBSOCKETS,
            WIDE,
            b"; server_max_window_bits=12; client_max_window_bits=12",
            agreed(12, 12),
        ),
        (
            WEBSOCKETS,
            PerMessageDeflate(9),
            b"; server_max_window_bits=9; client_max_window_bits=9",
            agreed(9, 9),
        ),
    ],
)
def test_answer_to_known_clients(
    offered: bytes, settings: PerMessageDeflate, expected: bytes, parameters: DeflateParameters
) -> None:
    assert answer([offered], settings) == (b"permessage-deflate" + expected, parameters)


def answered(offered: bytes, settings: PerMessageDeflate = WIDE) -> bytes:
    """Return the answer's parameters for the parameters of an offer."""
    result = answer([b"permessage-deflate" + offered], settings)
    assert result is not None
    assert result[0].startswith(b"permessage-deflate")
    return result[0][len("permessage-deflate") :]


def test_answer_names_server_window_if_offered() -> None:
    assert answered(b"; server_max_window_bits=15") == b"; server_max_window_bits=15"
    assert answered(b"; server_max_window_bits=9") == b"; server_max_window_bits=9"


def test_answer_client_window_may_be_8() -> None:
    offered = b"permessage-deflate; client_max_window_bits=8"
    assert answer([offered], PerMessageDeflate(9)) == (
        b"permessage-deflate; server_max_window_bits=9; client_max_window_bits=8",
        agreed(8, 9),
    )


def test_answer_omits_client_window_unless_offered() -> None:
    # So the client's messages may need 15 bits.
    assert answer([FIREFOX], PerMessageDeflate(10)) == (
        b"permessage-deflate; server_max_window_bits=10",
        agreed(15, 10),
    )


def test_answer_client_window_is_at_most_offered() -> None:
    assert answered(b"; client_max_window_bits=10") == b"; client_max_window_bits=10"
    assert answered(b"; client_max_window_bits=15") == b""


def test_answer_confirms_no_context_takeover() -> None:
    offered = b"permessage-deflate; server_no_context_takeover"
    assert answer([offered], WIDE) == (offered, agreed(resets=True))


def test_answer_repeats_client_no_context_takeover() -> None:
    assert answered(b"; client_no_context_takeover") == b"; client_no_context_takeover"


def test_answer_without_takeover_names_both() -> None:
    settings = PerMessageDeflate(15, context_takeover=False)
    assert answered(b"", settings) == BOTH_RESETS
    assert answer([FIREFOX], settings) == (FIREFOX + BOTH_RESETS, agreed(15, 15, True, True))


@pytest.mark.parametrize(
    "parameters",
    [
        b"foo",
        b"foo=1",
        b"Server_no_context_takeover",
        b"server_no_context_takeover=1",
        b"client_no_context_takeover=true",
        b"server_no_context_takeover; server_no_context_takeover",
        b"client_no_context_takeover; client_no_context_takeover",
        b"client_max_window_bits; client_max_window_bits",
        b"client_max_window_bits=10; client_max_window_bits=10",
        b"server_max_window_bits=10; server_max_window_bits=10",
        b"server_max_window_bits",
        b"server_max_window_bits=8",  # valid, but zlib can't do it
        b"server_max_window_bits=7",
        b"server_max_window_bits=16",
        b"server_max_window_bits=010",
        b"server_max_window_bits=+10",
        b"server_max_window_bits=-10",
        b"server_max_window_bits=1_0",
        b"server_max_window_bits=ten",
        b"client_max_window_bits=7",
        b"client_max_window_bits=16",
        b"client_max_window_bits=09",
        b"client_max_window_bits=0xa",
        b"client_max_window_bits=1e1",
        b"client_max_window_bits=" + b"1" * 5000,
    ],
)
def test_answer_declines_unacceptable_offers(parameters: bytes) -> None:
    bad = b"permessage-deflate; " + parameters
    assert answer([bad], WIDE) is None
    # The answer to the next offer contains none of its parameters.
    leaking = bad + b"; client_no_context_takeover"
    assert answer([leaking + b", permessage-deflate"], WIDE) == (b"permessage-deflate", agreed())
    assert answer([leaking, b"permessage-deflate"], WIDE) == (b"permessage-deflate", agreed())


def test_answer_takes_first_acceptable_offer() -> None:
    values = [
        b"x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=8",
        b'permessage-deflate; server_max_window_bits="10", permessage-deflate',
    ]
    assert answer(values, WIDE) == (
        b"permessage-deflate; server_max_window_bits=10",
        agreed(15, 10),
    )


@pytest.mark.parametrize("values", [[], [b""], [b"foo; bar=2, baz"], [b"Permessage-Deflate"]])
def test_answer_unknown_extensions_is_none(values: list[bytes]) -> None:
    assert answer(values, WIDE) is None


def test_answer_malformed_after_good_offer_raises() -> None:
    with pytest.raises(ValueError, match="malformed"):
        answer([b"permessage-deflate, foo bar"], WIDE)


# -- the client's check of the answer


@pytest.mark.parametrize("values", [[], [b""]])
def test_check_answer_declined_is_none(values: list[bytes]) -> None:
    assert check_answer(values, WIDE) is None


@pytest.mark.parametrize(
    ("parameters", "settings", "expected"),
    [
        (b"", WIDE, agreed()),
        (b"; server_max_window_bits=10", WIDE, agreed(15, 10)),
        (b"; server_max_window_bits=8", WIDE, agreed(15, 8)),
        (b"; client_max_window_bits=10", WIDE, agreed(10, 15)),
        (b'; client_max_window_bits="9"', WIDE, agreed(9, 15)),
        (b"; client_max_window_bits=8", WIDE, agreed(8, 15)),
        (b"; server_no_context_takeover", WIDE, agreed(resets=True)),
        (b"; client_no_context_takeover", WIDE, agreed(client_resets=True)),
        # Our own promises hold for any answer.
        (b"; server_max_window_bits=12", PerMessageDeflate(), agreed(12, 12)),
        (
            b"; server_max_window_bits=11; client_max_window_bits=15",
            PerMessageDeflate(),
            agreed(12, 11),
        ),
        (
            b"; server_no_context_takeover",
            PerMessageDeflate(15, context_takeover=False),
            agreed(15, 15, True, True),
        ),
    ],
)
def test_check_answer_valid_is_accepted(
    parameters: bytes, settings: PerMessageDeflate, expected: DeflateParameters
) -> None:
    assert check_answer([b"permessage-deflate" + parameters], settings) == expected


NARROW = PerMessageDeflate(10)
RESETTING = PerMessageDeflate(15, context_takeover=False)


@pytest.mark.parametrize(
    ("value", "settings", "text"),
    [
        (b"foo", WIDE, "the server chose the extension 'foo', not offered"),
        (b"permessage-deflate, foo", WIDE, "the server chose the extension 'foo', not offered"),
        (b"Permessage-Deflate", WIDE, "the server chose the extension 'Permessage-Deflate', not"),
        (b"permessage-deflate, permessage-deflate", WIDE, "chose permessage-deflate twice"),
        (b"permessage-deflate; foo", WIDE, "'foo' is no valid parameter of permessage-deflate"),
        (b"permessage-deflate; foo=1", WIDE, "'foo=1' is no valid parameter"),
        (
            b"permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            WIDE,
            "'client_no_context_takeover' comes twice",
        ),
        (
            b"permessage-deflate; server_no_context_takeover=1",
            WIDE,
            "'server_no_context_takeover=1' is no valid parameter",
        ),
        (
            b"permessage-deflate; client_max_window_bits",
            WIDE,
            "'client_max_window_bits' is no valid parameter",
        ),
        (
            b"permessage-deflate; server_max_window_bits=010",
            WIDE,
            "'server_max_window_bits=010' is no valid parameter",
        ),
    ],
)
def test_check_answer_invalid_raises(value: bytes, settings: PerMessageDeflate, text: str) -> None:
    with pytest.raises(ValueError) as exc_info:  # noqa: PT011 # matched below
        check_answer([value], settings)
    assert text in str(exc_info.value)


def test_check_answer_in_two_lines_raises() -> None:
    with pytest.raises(ValueError, match="twice"):
        check_answer([b"permessage-deflate", b"permessage-deflate"], WIDE)


@pytest.mark.parametrize(
    ("value", "settings", "parameters"),
    [
        (b"permessage-deflate", NARROW, agreed(10, 15)),
        (b"permessage-deflate; server_max_window_bits=11", NARROW, agreed(10, 11)),
        (b"permessage-deflate; client_max_window_bits=15", NARROW, agreed(10, 15)),
        (b"permessage-deflate" + BOTH_RESETS, NARROW, agreed(10, 15, True, True)),
        (b"permessage-deflate", RESETTING, agreed(15, 15, True, False)),
    ],
)
def test_check_answer_to_fallback_is_accepted(
    value: bytes, settings: PerMessageDeflate, parameters: DeflateParameters
) -> None:
    assert check_answer([value], settings) == parameters
