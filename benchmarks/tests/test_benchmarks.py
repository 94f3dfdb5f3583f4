"""The benchmarks: each case runs for a short time and returns its measurements."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import zlib
from pathlib import Path

import pytest

from benchmarks import __main__ as bench, instructions, load, wire
from benchmarks.cases import CASES, Run
from benchmarks.contestants import CONTESTANTS

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="they read the memory from Linux's /proc"
)


OURS = next(each for each in CONTESTANTS if each.name == "ours")
RESULTS = {
    "machine": dict.fromkeys(("date", "command", "cpus", "cpu", "system", "python"), "?"),
    "packages": {"trio": "0.35.0"},
    "extension": False,
    "spread": False,
    "rounds": 3,
    "seconds": 1,
    "notes": ["A note."],
    "samples": {
        "pingpong": {
            "server": {
                "ours": [{"wall": wall, "cpu": 1e-5} for wall in (2e-5, 9e-5, 3e-5)],
                "aiohttp": [{"wall": 6e-5, "cpu": 2e-5}],
                "raw": [{"wall": 6e-5, "cpu": 1e-5}],
            }
        },
        "memory": {"server": {"ours": [{"memory": 12 * 1024}]}},
    },
}


def test_report_is_written_as_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "bench.json", tmp_path / "table.md"
    source.write_text(json.dumps(RESULTS))
    assert bench.main(["--read", str(source), "--markdown", str(target)]) == 0
    lines = target.read_text().splitlines()
    assert lines == capsys.readouterr().out.splitlines()[:-1]
    assert "| ping-pong, 32 B | 10.0 | 10.0 (1.00) | 20.0 (2.00) |" in lines
    assert "| ping-pong, 32 B | 30.0 | 60.0 (2.00) | 60.0 (2.00) |" in lines
    assert "| memory of an idle connection, KiB | 12.0 |  |  |" in lines
    assert "| 1 | ping-pong 32 B, CPU, server | Trio streams | 0.850 | 1.000 | **no** |" in lines
    assert "| 1 | ping-pong 32 B, CPU, server | aiohttp | 1.000 | 0.500 | yes |" in lines
    assert "| 4 | idle connection, KiB, server |  | 12.0 | 12.0 | yes |" in lines
    assert "| 4 | opening, CPU, server | websockets.trio | 0.500 |  | not measured |" in lines
    assert "A note." in lines


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("name", ["pingpong", "burst", "flood-receive", "flood-send", "connect"])
def test_case_measures_cpu_and_wall(name: str, side: str) -> None:
    (case,) = [each for each in CASES if each.name == name]
    here = str(Path(__file__).resolve().parents[2])
    contestant = dataclasses.replace(OURS, variables=(("PYTHONPATH", here),))
    sample = case.run(Run(contestant, Path(sys.executable), side, certificates="", seconds=0.05))
    assert 0 < sample["cpu"] < 0.1
    assert 0 < sample["wall"] < 0.1


@pytest.mark.parametrize("size", [32, 1000, 2**16])
def test_wire_compressed_frame_is_readable(size: int) -> None:
    (message, *_) = wire.messages(size, text=True, compressible=True)
    data = wire.ready_made(message, masked=False, compressed=True)
    assert load.whole_frame(data[:1]) is None
    assert load.whole_frame(data) == len(data)
    payload = data[2 if len(data) < 128 else 4 :] + b"\0\0\xff\xff"
    assert zlib.decompressobj(-wire.WINDOW_BITS).decompress(payload).decode() == message


def test_instructions_compare_fails_above_3_percent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    counts = {case.title: 1000.0 for case in instructions.CASES}
    slower = {**counts, instructions.CASES[0].title: 1050.0}
    found = iter([counts, slower])
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None)
    monkeypatch.setattr(instructions, "count", lambda contestant, checkout: next(found))
    before = tmp_path / "before.json"
    assert instructions.main(["--peers", "ours", "--json", str(before)]) == 0
    assert "| ping-pong, 32 B | 1,000 |\n" in capsys.readouterr().out
    assert instructions.main(["--peers", "ours", "--compare", str(before)]) == 1
    out = capsys.readouterr().out
    assert "| ping-pong, 32 B | 1,050 | 1,000 | +5.0 % |" in out
    assert "more than 3 % above before: ping-pong, 32 B\n" in out


def test_instructions_without_valgrind_are_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert instructions.main([]) == 0
    assert "apt-get install valgrind" in capsys.readouterr().out
