"""Compare what our side sends in thousands of conversations with an earlier version of the library.

    python -m tools.fuzz.replay --record before.json.gz
    (change the library)
    python -m tools.fuzz.replay --compare before.json.gz

The fuzzers' generators make the conversations from a seed, so they are the same each time. To
record an older version, put its trio_websocket/ into a copy of this checkout. Both runs need the
same Python and the same zlib library: set TRIO_WEBSOCKET_NO_ZLIB_NG=1, as `make replay` does.

Each difference belongs to a category:

    input    the generators have changed: record anew
    bytes    our side sends other bytes
    timing   our side sends the same bytes, but after another chunk of the peer
    end      our side closes the stream in another way, or at another time
    outcome  the application gets other messages, exceptions or close codes
    wording  only the texts of exceptions and log records differ

The exit status is 1 if there are differences, other than in wording. `--show NUMBER` prints a
conversation and its record.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import platform
import sys
from typing import Any, Sequence

from . import conversations

SEED, COUNT = "1", 4000
_SHOWN = 5  # differences of each category
_WIDTH = 300  # characters of each side


def categories(before: Any, after: Any) -> list[str]:
    """Return in which ways the records of a conversation differ."""
    if before["input"] != after["input"]:
        return ["input"]
    found = []
    if before["sent"] != after["sent"]:
        is_late = "".join(before["sent"]) == "".join(after["sent"])
        found.append("timing" if is_late else "bytes")
    if before["end"] != after["end"]:
        found.append("end")
    if before["events"] != after["events"] or _firsts(before) != _firsts(after):
        found.append("outcome")
    elif before["errors"] != after["errors"] or before["logs"] != after["logs"]:
        found.append("wording")
    return found


def _firsts(record: Any) -> Any:
    """Return the facts about exceptions and the levels of log records, without their texts."""
    return [[each[0] for each in record[name]] for name in ("errors", "logs")]


def difference(before: Any, after: Any) -> str:
    """Return the first values that differ."""
    for name in ("input", "sent", "end", "events", "errors", "logs"):
        old, new = before[name], after[name]
        if old == new:
            continue
        where = name
        if isinstance(old, list) and isinstance(new, list):
            length = max(len(old), len(new))
            pairs = zip(old + [None] * (length - len(old)), new + [None] * (length - len(new)))
            index, (old, new) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
            where = f"{name}[{index}]"
        return f"{where}\n    before {old!r:.{_WIDTH}}\n    now    {new!r:.{_WIDTH}}"
    return "nothing"


def records(seed: str, numbers: Sequence[int]) -> list[Any]:
    made = [conversations.run(conversations.make(seed, number)) for number in numbers]
    return json.loads(json.dumps(made))  # type: ignore[no-any-return] # what a file would give back


def compare(before: Sequence[Any], after: Sequence[Any]) -> collections.Counter[str]:
    """Print the differences, and return how many there are of each category."""
    counts: collections.Counter[str] = collections.Counter()
    for number, (old, new) in enumerate(zip(before, after)):
        for category in categories(old, new):
            counts[category] += 1
            if counts[category] <= _SHOWN:
                talk = conversations.make(SEED, number)
                what = f"{talk.side}, {talk.kind}, {talk.use}"
                print(f"{category}: conversation {number} ({what}): {difference(old, new)}")
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.fuzz.replay")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--record", metavar="FILE", help="write the records, compressed by gzip")
    action.add_argument("--compare", metavar="FILE", help="compare with what was written")
    action.add_argument("--show", metavar="NUMBER", type=int, help="print one conversation")
    parser.add_argument("--count", type=int, default=COUNT, help="conversations, with --record")
    options = parser.parse_args(arguments)
    if options.show is not None:
        print(conversations.make(SEED, options.show))
        print(json.dumps(records(SEED, [options.show])[0], indent=1))
        return 0
    if options.record:
        with gzip.open(options.record, "wt", encoding="utf-8") as file:
            json.dump(records(SEED, range(options.count)), file)
        print(f"recorded {options.count:,} conversations, Python {platform.python_version()}")
        return 0
    with gzip.open(options.compare, "rt", encoding="utf-8") as file:
        before = json.load(file)
    counts = compare(before, records(SEED, range(len(before))))
    found = ", ".join(f"{count:,} {category}" for category, count in counts.items())
    print(f"compared {len(before):,} conversations; differences: {found or 'none'}")
    return int(bool(counts.keys() - {"wording"}))


if __name__ == "__main__":
    sys.exit(main())
