"""`make replay` finds all changes, and nothing else."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from tools.fuzz import conversations, replay

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.no_cover


def test_replay_same_library_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "before.json.gz")
    assert replay.main(["--record", path, "--count", "60"]) == 0
    assert replay.main(["--compare", path]) == 0
    assert capsys.readouterr().out.endswith("differences: none\n")


def test_replay_valid_conversation_is_echoed() -> None:
    valid = [talk for talk in map(_make, range(200)) if talk.kind == "valid"]
    echoing = next(talk for talk in valid if (talk.side, talk.use) == ("server", "echo"))
    record: Any = conversations.run(echoing)
    assert "".join(record["sent"]).startswith("HTTP/1.1 101 ")
    assert [event[0] for event in record["events"]][1:2] == ["message"]


def _make(number: int) -> conversations.Conversation:
    return conversations.make("1", number)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, []),
        ({"input": "x"}, ["input"]),
        ({"sent": ["a", "c"]}, ["bytes"]),
        ({"sent": ["", "ab"]}, ["timing"]),
        ({"end": ["broken", 1.0]}, ["end"]),
        ({"events": []}, ["outcome"]),
        ({"errors": [[["OSError"], "text"]]}, ["outcome"]),
        ({"errors": [[["ValueError"], "other text"]]}, ["wording"]),
        ({"logs": [["INFO", "other text"]]}, ["wording"]),
    ],
)
def test_categories_changed_record_category(change: Any, wanted: list[str]) -> None:
    before = {
        "input": "",
        "sent": ["a", "b"],
        "end": ["end of stream", 0.0],
        "events": [["closed", None]],
        "errors": [[["ValueError"], "text"]],
        "logs": [["INFO", "text"]],
    }
    after = {**copy.deepcopy(before), **change}
    assert replay.categories(before, after) == wanted
    assert (replay.difference(before, after) == "nothing") == (not wanted)
