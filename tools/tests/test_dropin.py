"""The public API contains that of 0.12.2. `make dropin` also compares the behaviour."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any, Callable

import pytest

FOLDER = Path(__file__).parents[2] / "tools" / "dropin"
OLD: dict[str, Any] = json.loads((FOLDER / "api-0.12.2.json").read_text())
API = runpy.run_path(str(FOLDER / "api.py"))


def test_differences_of_api_to_0_12_are_empty() -> None:
    assert API["differences"](OLD, API["dump"]()) == []


def test_dump_impl_has_the_public_names() -> None:
    facts = API["dump"]()
    assert facts["impl_names"] == facts["names"]


@pytest.mark.parametrize(
    "change",
    [
        lambda api: api["names"].remove("Endpoint"),
        lambda api: api["functions"].pop("open_websocket"),
        lambda api: api["functions"]["connect_websocket"].update({"async": False}),
        lambda api: api["functions"]["serve_websocket"]["positional"].reverse(),
        lambda api: api["functions"]["open_websocket"]["keywords"].update(connect_timeout="61"),
        lambda api: api["functions"]["open_websocket"]["keywords"].update(new="required"),
        lambda api: api["functions"]["open_websocket"]["keywords"].pop("use_ssl"),
        lambda api: api["functions"]["open_websocket"]["positional"].append(["d", "", "required"]),
        lambda api: api["classes"]["ConnectionTimeout"]["bases"].remove("HandshakeError"),
        lambda api: api["classes"]["WebSocketConnection"]["methods"].pop("ping"),
        lambda api: api["classes"]["WebSocketConnection"]["properties"].remove("closed"),
        lambda api: api["classes"]["WebSocketServer"]["constructor"]["positional"].pop(),
        lambda api: api["samples"]["CloseReason(1000, None)"].update(repr="CloseReason()"),
        lambda api: api["samples"]["CloseReason(1000, None)"]["attributes"].pop("name"),
    ],
)
def test_differences_with_a_break_finds_it(change: Callable[[dict[str, Any]], object]) -> None:
    new = copy.deepcopy(OLD)
    assert API["differences"](OLD, new) == []
    change(new)
    assert len(API["differences"](OLD, new)) == 1


def test_differences_with_additions_are_empty() -> None:
    new = copy.deepcopy(OLD)
    new["names"].append("open_broadcast")
    new["functions"]["open_websocket"]["keywords"]["max_fragments"] = "131072"
    new["functions"]["open_websocket"]["positional"].append(["d", "POSITIONAL_OR_KEYWORD", "1"])
    new["classes"]["ConnectionTimeout"]["bases"].insert(1, "builtins.TimeoutError")
    assert API["differences"](OLD, new) == []
