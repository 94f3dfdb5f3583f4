"""The settings of both halves of websockets."""

from __future__ import annotations

from typing import Any

from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

from tools.bench import wire
from tools.bench.task import MAX_SIZE, Task


def options(task: Task) -> dict[str, Any]:
    keywords: dict[str, Any] = {"compression": None, "max_size": MAX_SIZE, "ping_interval": None}
    if task.side == "client":
        keywords["proxy"] = None  # it would look for one in the environment each time
    if task.deflate:
        factory: Any = ServerPerMessageDeflateFactory
        if task.side == "client":
            factory = ClientPerMessageDeflateFactory
        deflate = factory(
            server_max_window_bits=wire.WINDOW_BITS,
            client_max_window_bits=wire.WINDOW_BITS,
            compress_settings={"level": wire.LEVEL, "memLevel": wire.MEM_LEVEL},
        )
        keywords["extensions"] = [deflate]
    return keywords
