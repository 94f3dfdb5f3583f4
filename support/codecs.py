"""The codec in Python and in C, and frames to compare it with."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any
from unittest import mock

import pytest

from support import frames
from trio_websocket._sansio import codec as _codec

# First bytes of unfragmented frames.
FINAL, TEXT, BINARY, PING = 0x80, 0x81, 0x82, 0x89
MASKED = 0x80
KEY = b"\x12\xab\x00\xff"
UNBOUNDED = 2**62


def load(*, no_extensions: str = "", speedups: object = None) -> Any:
    """Load a copy of the module with this environment variable and C extension."""
    spec = importlib.util.spec_from_file_location("trio_websocket._sansio.codec", _codec.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    modules: dict[str, Any] = {"trio_websocket._sansio._speedups": speedups}
    environment = {"TRIO_WEBSOCKET_NO_EXTENSIONS": no_extensions}
    with mock.patch.dict(sys.modules, modules), mock.patch.dict(os.environ, environment):
        spec.loader.exec_module(module)
    return module


PURE = load(no_extensions="1")

try:
    IN_C: Any = importlib.import_module("trio_websocket._sansio._speedups")
except ImportError:
    IN_C = None

needs_c = pytest.mark.skipif(IN_C is None, reason="the C extension is not built")


def frame(
    payload: bytes, *, first: int = BINARY, key: bytes = KEY, width: int | None = None
) -> bytes:
    """Return a frame with this first byte, and an unmasked one if the key is empty."""
    return frames.frame(
        first & 0xF,
        payload,
        fin=first >= FINAL,
        rsv=first >> 4 & 7,
        key=key or None,
        width=width,
    )
