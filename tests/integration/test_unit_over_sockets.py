"""Run the unit tests for any kind of stream over TCP, TLS and socket pairs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from support.streams import in_memory

_UNIT = Path(__file__).parents[1] / "unit"


def _tests_over_sockets() -> dict[str, Any]:
    """Return the functions that are marked with at least one kind of socket stream, by name."""
    found: dict[str, Any] = {}
    for path in sorted(_UNIT.glob("test_*.py")):
        module = importlib.import_module(f"tests.unit.{path.stem}")
        for name, function in vars(module).items():
            for mark in getattr(function, "pytestmark", ()):
                if mark.name == "streams" and not all(map(in_memory, mark.args[0])):
                    assert name not in found, f"two unit tests are called {name}"
                    found[name] = function
    return found


globals().update(_tests_over_sockets())
