"""Clients that stay connected to a server that fails, for a moment."""

from __future__ import annotations

import random

import pytest

from tools import soak_stay_connected
from trio_websocket._io.groups import flatten_group

pytestmark = [pytest.mark.no_cover, pytest.mark.usefixtures("frozen_heap")]


def test_soak_stay_connected_finds_no_violation(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak_stay_connected.main(["--rounds", "300"]) == 0
    assert capsys.readouterr().out.endswith(" calls, 0 connections kept\n")


def test_soak_stay_connected_violation_says_how_to_replay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 1000)
    with pytest.raises(Exception) as caught:  # noqa: PT011 # a group
        soak_stay_connected.main([])
    violation = flatten_group(caught.value)[0]
    assert isinstance(violation, soak_stay_connected.Violation)
    assert "a delay of 10" in str(violation)
    assert "To replay it: --seed 1 --call " in capsys.readouterr().out
