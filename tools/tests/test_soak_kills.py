"""A client whose server process is killed, for a moment."""

from __future__ import annotations

import os

import pytest

from tools import soak_kills

pytestmark = pytest.mark.no_cover


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_soak_kills_client_returns_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kills", "2", "--initial", "0.05", "--maximum", "0.2"]
    assert soak_kills.main(arguments) == 0
    assert capsys.readouterr().out.startswith("2 kills, ")
