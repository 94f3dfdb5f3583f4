"""Compare this checkout with trio-websocket 0.12.2, which it replaces.

Both are installed below .venvs/, and kept there. The comparison has three parts: the public APIs,
the output of the programs in dropin/programs/, and selenium on this checkout. Arguments name the
programs to run. The exit status is 1 if a program for 0.12.2 could notice a difference.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "tools" / "dropin"
FACTS = HERE / "api-0.12.2.json"
OURS = "."  # means this checkout in a list of requirements

INSTALL_LIMIT = 300  # seconds for each call of pip
PROGRAM_LIMIT = 30  # seconds for each program

Differences = List[str]


def digest() -> str:
    """Return a digest that changes whenever the files to install change."""
    sources = [ROOT / "pyproject.toml", *sorted((ROOT / "trio_websocket").rglob("*.py"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def environment(name: str, *requirements: str) -> Path:
    """Return the interpreter of an environment with the newest versions of these requirements."""
    folder = ROOT / ".venvs" / f"dropin-{name}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / "made-of"
    made_of = f"{platform.python_version()} {requirements} {OURS in requirements and digest()}"
    if not stamp.exists() or stamp.read_text() != made_of:
        print(f"making {folder.relative_to(ROOT)}", flush=True)
        run(sys.executable, "-m", "venv", "--clear", folder, limit=INSTALL_LIMIT)
        with tempfile.TemporaryDirectory() as copy:
            checkout = Path(copy) / "checkout"
            # A build in place would leave files in the checkout, and reuse those of an older build.
            left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "docs")
            shutil.copytree(ROOT, checkout, ignore=left_out)
            named = [checkout if item == OURS else item for item in requirements]
            run(python, "-m", "pip", "install", "-q", *named, limit=INSTALL_LIMIT)
        stamp.write_text(made_of)
    return python


def run(*command: str | Path, limit: float) -> str:
    """Run a command, which must succeed, and return its output."""
    done = attempt(*command, limit=limit)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def attempt(*command: str | Path, limit: float) -> subprocess.CompletedProcess[str]:
    """Run a command and return its result. A command that exceeds the limit has failed."""
    try:
        return subprocess.run(
            [str(part) for part in command], capture_output=True, encoding="utf-8", timeout=limit
        )
    except subprocess.TimeoutExpired as exc:
        shown = (exc.stdout or b"").decode()
        return subprocess.CompletedProcess(exc.cmd, -1, shown, f"not done in {limit} s\n")


def program(python: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program isolated from the checkout and the user's settings, with warnings on."""
    # Ignore one warning: a dependency of trustme will drop old Pythons.
    options = ("-Iu", "-X", "dev", "-X", "utf8", "-W", "ignore::UserWarning")
    return attempt(python, *options, path, limit=PROGRAM_LIMIT)


def compare_api(old: Path, new: Path) -> Differences:
    facts = run(old, "-I", HERE / "api.py", limit=PROGRAM_LIMIT)
    if not FACTS.exists() or FACTS.read_text() != facts:
        FACTS.write_text(facts)
        return [f"{FACTS.name} was not what 0.12.2 says; it is now"]
    done = attempt(new, "-I", HERE / "api.py", FACTS, limit=PROGRAM_LIMIT)
    return done.stderr.splitlines() if done.returncode else []


def compare_program(old: Path, new: Path, path: Path) -> Differences:
    with ThreadPoolExecutor() as pool:
        before, after = pool.map(program, (old, new), (path, path))
    if before.returncode:
        return ["the program fails with 0.12.2", *before.stderr.splitlines()]
    found = list(
        difflib.unified_diff(
            by_actor(before.stdout), by_actor(after.stdout), "0.12.2", "ours", lineterm="", n=1
        )
    )
    if after.returncode or after.stderr:  # a warning counts, too
        found += [f"exit status {after.returncode}", *after.stderr.splitlines()]
    return found


def by_actor(output: str) -> list[str]:
    """Sort the lines by their first words, because the order of tasks may differ."""
    return sorted(output.splitlines(), key=lambda line: line.partition(" ")[0])


def selenium_works(python: Path) -> Differences:
    checked = attempt(python, "-m", "pip", "check", limit=PROGRAM_LIMIT)
    used = program(python, HERE / "selenium_cdp.py")
    return [
        line
        for done in (checked, used)
        if done.returncode
        for line in (done.stdout + done.stderr).splitlines()
    ]


def report(name: str, found: Differences) -> bool:
    """Print the result of a comparison. Return True if there is a difference."""
    print(f"{'DIFFERS' if found else 'same':8}{name}", *found, sep="\n    ", flush=True)
    return bool(found)


def main(names: list[str]) -> int:
    old = environment("0.12.2", "trio-websocket==0.12.2", "trustme")
    new = environment("ours", OURS, "trustme")
    programs = sorted((HERE / "programs").glob("*.py"))
    if names:
        programs = [path for path in programs if path.stem in names]
    else:
        selenium = environment("selenium", OURS, "selenium")
    differing = [report("public API", compare_api(old, new))]
    differing += [report(path.stem, compare_program(old, new, path)) for path in programs]
    if not names:
        differing.append(report("selenium", selenium_works(selenium)))
    print(f"{sum(differing)} of {len(differing)} differ from 0.12.2")
    return int(any(differing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
