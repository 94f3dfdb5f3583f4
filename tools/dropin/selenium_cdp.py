"""Selenium's use of trio_websocket: Chrome's DevTools protocol."""

from __future__ import annotations

import importlib
import json
from functools import partial

import trio

from trio_websocket import WebSocketRequest, serve_websocket

cdp = importlib.import_module("selenium.webdriver.common.bidi.cdp")


async def browser(request: WebSocketRequest) -> None:
    ws = await request.accept()
    for _ in range(2):
        call = json.loads(await ws.get_message())
        await ws.send_message(json.dumps({"id": call["id"], "result": {"targetInfos": []}}))
    await ws.aclose(1001, "browser closes")


async def main() -> None:
    devtools = cdp.import_devtools("latest")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, browser, "127.0.0.1", 0, None))
        url = f"ws://127.0.0.1:{server.port}/devtools/browser/1"
        async with cdp.open_cdp(url) as connection:
            for _ in range(2):
                assert await connection.execute(devtools.target.get_targets()) == []
            await trio.sleep(0.3)  # wait for the Close
            try:
                await connection.execute(devtools.target.get_targets())
            except cdp.CdpConnectionClosed as exc:
                print("closed:", exc.reason)
        nursery.cancel_scope.cancel()


trio.run(main)
