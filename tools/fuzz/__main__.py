"""Feed hostile bytes to both sides of the library.

The target, a seed and a number determine each case, so it can be repeated:

    python -m tools.fuzz --seconds 1800 --seed 1
    python -m tools.fuzz --target server-memory --seed 1 --case 1234

The exit status is 1 if the library broke a promise.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from typing import Any, Iterator, Sequence

from .model import Violation
from .on_server import Mishap
from .targets import TARGETS, Target

# The duration of a target's turn, and the limit for a batch, in seconds.
_TURN, _LIMIT = 2.0, 120.0
# The printed size of a case, and the number of printed cases with the same failure.
_SHOWN, _REPEATED = 1500, 3


class Fuzzer:
    """Runs cases and counts their findings."""

    def __init__(self, seed: str, *, limit: float = _LIMIT) -> None:
        """
        :param seed: The seed of the cases.
        :param limit: The time limit for a batch in seconds.
        """
        self.seed = seed
        self.limit = limit
        self.cases: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()

    def run_turn(self, target: Target, seconds: float) -> None:
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            first = self.cases[target.name]
            self.run_batch(target, range(first, first + target.batch))
            self.cases[target.name] += target.batch
        self.seconds[target.name] += time.monotonic() - started  # type: ignore[assignment] # typeshed has counters of int only

    def run_batch(self, target: Target, numbers: Sequence[int]) -> None:
        error = self._error(target, numbers)
        if error is None:
            return
        if len(numbers) == 1:
            self._report(target, str(numbers[0]), error)
            return
        before = self.findings[target.name]
        for number in numbers:
            single = self._error(target, [number])
            if single is not None:
                self._report(target, str(number), single)
        if self.findings[target.name] == before:
            self._report(target, f"{numbers[0]} to {numbers[-1]}, but only together", error)

    def _error(self, target: Target, numbers: Sequence[int]) -> BaseException | None:
        try:
            with _limited(self.limit), _silence():
                target.run(self.seed, numbers)
        except Exception as exc:
            return _single(exc)
        return None

    def _report(self, target: Target, case: str, error: BaseException) -> None:
        self.findings[target.name] += 1
        where = traceback.extract_tb(error.__traceback__)[-2:]
        kind = f"{target.name} {type(error).__name__} {str(error)[:40]} {where}"
        self._seen[kind] += 1
        if self._seen[kind] > _REPEATED:
            return
        print(f"\n{target.name}, seed {self.seed}, case {case}:")
        if case.isdigit():
            print(target.show(self.seed, int(case))[:_SHOWN])
        shown = traceback.format_exception(type(error), error, error.__traceback__)
        print("".join(shown)[-2 * _SHOWN :], flush=True)

    def summary(self) -> str:
        lines = [f"{'target':18} {'cases':>10} {'seconds':>8} {'a second':>9} {'findings':>9}"]
        for name, cases in self.cases.items():
            seconds, findings = self.seconds[name], self.findings[name]
            rate = cases / max(seconds, 0.001)
            lines.append(f"{name:18} {cases:10,} {seconds:8.0f} {rate:9,.0f} {findings:9}")
        total, findings = sum(self.cases.values()), sum(self.findings.values())
        seconds = sum(self.seconds.values())
        lines.append(f"seed {self.seed}: {total:,} cases in {seconds:.0f} s, {findings} findings")
        return "\n".join(lines)


def _single(error: BaseException) -> BaseException:
    """Return the only exception in a group, or the error itself."""
    exceptions: Any = getattr(error, "exceptions", ())
    return _single(exceptions[0]) if len(exceptions) == 1 else error


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def hang(*_: object) -> None:
        raise Violation(f"it takes longer than {seconds} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    handler = signal.signal(signal.SIGALRM, hang)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)  # restore the caller's timer
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Treat log records and unraisable exceptions as findings, too."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info is None or not isinstance(record.exc_info[1], Mishap):
                said.append(record.getMessage())

    handler = Handler(logging.WARNING)
    logger = logging.getLogger("trio-websocket")
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: said.append(f"unraisable: {args.exc_value!r} {args.object!r}")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        sys.unraisablehook = hook
    if said:
        raise Violation("it said: " + "; ".join(said)[:2000])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.fuzz")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="all by default")
    parser.add_argument("--case", type=int, help="run only this case of one target")
    options = parser.parse_args(arguments)
    warnings.simplefilter("error")
    targets = [TARGETS[name] for name in options.target or TARGETS]
    fuzzer = Fuzzer(options.seed)
    if options.case is not None:
        if len(targets) != 1:
            parser.error("--case needs one --target")
        print(targets[0].show(options.seed, options.case))
        fuzzer.run_batch(targets[0], [options.case])
        return 1 if fuzzer.findings else 0
    deadline = time.monotonic() + options.seconds
    try:
        while time.monotonic() < deadline:
            for target in targets:
                fuzzer.run_turn(target, min(_TURN, options.seconds / len(targets)))
    except KeyboardInterrupt:
        print("interrupted")
    print(fuzzer.summary())
    return 1 if sum(fuzzer.findings.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
