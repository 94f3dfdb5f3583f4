"""The client under test by Autobahn. It runs every case and echoes every message.

The exit status is 1 if a case raised an exception other than ConnectionClosed, or took too long.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback

import trio

from trio_websocket import ConnectionClosed, PerMessageDeflate, open_websocket_url

# The largest message of the suite, in group 9. All other limits have their defaults.
MAX_MESSAGE_SIZE = 16 * 2**20
# Seconds. The suite itself gives up most cases after 100 seconds.
CASE_TIMEOUT = 120
AGENT = "trio_websocket"


async def get_case_count(url: str) -> int:
    async with open_websocket_url(f"{url}/getCaseCount") as ws:
        return int(await ws.get_message())


async def run_case(url: str, case: int) -> None:
    case_url = f"{url}/runCase?case={case}&agent={AGENT}"
    async with open_websocket_url(
        case_url, max_message_size=MAX_MESSAGE_SIZE, compression=PerMessageDeflate()
    ) as ws:
        try:
            while True:
                await ws.send_message(await ws.get_message())
        except ConnectionClosed:
            pass


async def update_reports(url: str) -> None:
    async with open_websocket_url(f"{url}/updateReports?agent={AGENT}") as ws:
        try:
            await ws.get_message()
        except ConnectionClosed:
            pass


async def main(url: str) -> int:
    status = 0
    for case in range(1, await get_case_count(url) + 1):
        try:
            with trio.fail_after(CASE_TIMEOUT):
                await run_case(url, case)
        except Exception:
            # Continue with the next case. wstest judges this one by the frames that it saw.
            traceback.print_exc()
            print(f"(raised by the suite's case number {case})", file=sys.stderr, flush=True)
            status = 1
    await update_reports(url)
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--debug", action="store_true", help="log everything")
    args = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if args.debug else logging.WARNING)
    sys.exit(trio.run(main, args.url))
