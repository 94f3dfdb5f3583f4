"""A short run of operations that are cancelled at random."""

from __future__ import annotations

import pytest

from support.strict_peer import Violation
from tools import soak_cancel

pytestmark = [pytest.mark.no_cover, pytest.mark.usefixtures("frozen_heap")]


def test_soak_cancel_finds_no_violation(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak_cancel.main(["--seed", "1", "--seconds", "0.5"]) == 0
    assert capsys.readouterr().out.endswith(" 0 violations\n")


def test_soak_cancel_violation_says_how_to_replay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def play_round(seed: int, number: int, tally: soak_cancel.Tally) -> None:
        if number == 3:
            raise Violation("here it is")

    monkeypatch.setattr(soak_cancel, "play_round", play_round)
    assert soak_cancel.main(["--seed", "7"]) == 1
    assert "--seed 7 --round 3\nhere it is\n" in capsys.readouterr().out
