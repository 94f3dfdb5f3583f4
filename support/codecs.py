"""The codec in Python and in C, and frames to compare it with."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any
from unittest import mock

import pytest

from trio_websocket._sansio import codec as _codec

FINAL, TEXT, BINARY, PING = 0x80, 0x81, 0x82, 0x89

MASKED = 0x80

KEY = b"\x12\xab\x00\xff"

UNBOUNDED = 2**62


def load(*, no_extensions: str = "", speedups: object = None) -> Any:
    """The module as it is in a process with that environment, and that, or nothing, in C."""
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


def xor(payload: bytes, key: bytes) -> bytes:
    """RFC 6455, 5.3, word by word."""
    return bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


def frame(
    payload: bytes, *, first: int = BINARY, key: bytes = KEY, width: int | None = None
) -> bytes:
    """A frame whose length is written in that many bytes, or in as few as can be."""
    size = len(payload)
    if width is None:
        width = 0 if size < 126 else 2 if size < 0x10000 else 8
    second = {0: size, 2: 126, 8: 127}[width] | (MASKED if key else 0)
    head = bytes((first, second)) + (size.to_bytes(width, "big") if width else b"")
    return head + key + (xor(payload, key) if key else payload)
