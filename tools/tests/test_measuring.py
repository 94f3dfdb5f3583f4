"""The measuring tools: each does a little work and prints its results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import bombs, measure_compression, stream_huge

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="they read the memory from Linux's /proc"
)


def test_bombs_one_frame_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bombs.main(["--kind", "one frame", "--type", "text", "--reader", "waits"]) == 0
    out = capsys.readouterr().out
    assert "code 1009" in out
    assert "FAILED" not in out


@pytest.mark.parametrize(
    "result",
    [
        {"code": 1000, "growth": 0, "milliseconds": 0},
        {"code": 1009, "growth": 4 * 2**20, "milliseconds": 0},
        {"code": 1009, "growth": 0, "milliseconds": 50},
    ],
)
def test_bombs_over_bounds_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], result: dict[str, float]
) -> None:
    monkeypatch.setattr(bombs, "run", lambda *arguments: result)
    assert bombs.main([]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_stream_huge_uses_bounded_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert stream_huge.main(["--gigabytes", "0.01", "--compression", "on"]) == 0
    out = capsys.readouterr().out
    assert "10,737,418 bytes" in out
    assert "TOO MUCH" not in out


def test_stream_huge_over_bounds_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stream_huge, "MAX_GROWTH", 0)
    assert stream_huge.main(["--gigabytes", "0.001", "--compression", "off"]) == 1
    assert "TOO MUCH" in capsys.readouterr().out


def test_measure_compression_prints_table(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--window-bits", "12", "--mem-level", "5", "--takeover", "yes"]
    assert measure_compression.main([*arguments, "--codecs", "50", "--messages", "64"]) == 0
    head, rule, row = capsys.readouterr().out.splitlines()
    assert {line.count("|") for line in (head, rule, row)} == {12}
    assert row.startswith("| 12 | 5 | yes |")
