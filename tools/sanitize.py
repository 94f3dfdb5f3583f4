"""Run the codec's tests and fuzzer with sanitizers in the C extension.

This builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer. They end the process
at the first access outside of an object or after its end, and at the first undefined operation. The
extension is not installed: only the child processes use it. Linux only.

    python -m tools.sanitize --seconds 60 --seed 1
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Sequence

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "sanitize" / "_speedups.so"
NAME = "trio_websocket._sansio._speedups"
FLAGS = [
    *("-shared", "-fPIC", "-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
]
# With the stable ABI, as in wheels, and without it, as for free-threaded Python.
ABIS = [["-DPy_LIMITED_API=0x03080000"], []]


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def runtime() -> Path | None:
    """Return the path of AddressSanitizer's library, or None without it or without a compiler."""
    command = [*compiler(), "-print-file-name=libasan.so"]
    try:
        found = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return Path(found) if Path(found).is_absolute() else None


def build(abi: Sequence[str]) -> None:
    BUILT.parent.mkdir(parents=True, exist_ok=True)
    source = ROOT / "trio_websocket" / "_sansio" / "_speedups.c"
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run([*compiler(), *FLAGS, *abi, include, str(source), "-o", str(BUILT)], check=True)


def environment(library: Path) -> dict[str, str]:
    return {
        **os.environ,
        # Python itself is built without the sanitizer, and must load its library first.
        "LD_PRELOAD": str(library),
        # Use malloc for every object, so that the sanitizer sees its bounds. Leaks are not
        # detected, because Python keeps some objects until its end.
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def load() -> None:
    """Load the extension with sanitizers, so that the package finds it."""
    spec = importlib.util.spec_from_file_location(NAME, BUILT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module


def test() -> int:
    import pytest  # noqa: PLC0415 # after the extension is loaded

    # The reports of the sanitizers must not be captured. They come from C, so this doesn't.
    arguments = ["-q", "--capture=sys", "-p", "no:cacheprovider", "--timeout=600"]
    return pytest.main([*arguments, "tests/unit/test_codec.py", "tests/exhaustive/test_codec.py"])


def fuzz(seconds: float, seed: str) -> int:
    from .fuzz.__main__ import main  # noqa: PLC0415 # after the extension is loaded
    from .fuzz.codec import CODECS  # noqa: PLC0415 # after the extension is loaded

    assert sys.modules[NAME] in CODECS
    return main(["--target", "codec", "--seconds", str(seconds), "--seed", seed])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.sanitize")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=60, help="the duration of fuzzing")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--child", choices=["test", "fuzz"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        load()
        return test() if options.child == "test" else fuzz(options.seconds, options.seed)
    library = runtime()
    if library is None:
        print("skipped: there is no C compiler with AddressSanitizer")
        return 0
    for abi in ABIS:
        build(abi)
        print(f"built with {' '.join(abi) or 'the whole API'}", flush=True)
        for child in ("test", "fuzz"):
            seconds = str(options.seconds / len(ABIS))
            command = ["--child", child, "--seconds", seconds, "--seed", options.seed]
            status = subprocess.run(
                [sys.executable, "-m", "tools.sanitize", *command], env=environment(library)
            ).returncode
            if status:
                print(f"FAILED: the {child} ended with {status}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
