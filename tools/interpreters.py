"""Print the CPython interpreters of this machine, as VERSION=PATH, oldest first.

Arguments are versions such as 3.10, or

- "oldest" and "newest": the oldest and the newest installed interpreter that is supported;
- "unpacked": the interpreters that `make newer-pythons` has unpacked;
- "all".

The default is "oldest", "newest" and "unpacked". Free-threaded builds and pre-releases are ignored.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

OLDEST_SUPPORTED = (3, 8)
UNPACKED = Path(__file__).resolve().parent.parent / ".venvs" / "pythons" / "root" / "usr" / "bin"
NAME = r"python3(\.\d+)?"
PROBE = """
import ensurepip, platform, sys, sysconfig, venv
if (
    platform.python_implementation() == "CPython"
    and sys.version_info.releaselevel == "final"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
):
    executable = getattr(sys, "_base_executable", sys.executable)  # not that of an environment
    print(sys.version_info[0], sys.version_info[1], executable)
"""


def installed() -> list[Path]:
    """Return paths of possible interpreters: this one, those on PATH, those of pyenv."""
    found = [Path(sys.executable)]
    for folder in os.get_exec_path():
        found += in_folder(Path(folder))
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return found + sorted(pyenv.glob("versions/*/bin/python"))


def in_folder(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("python3*") if re.fullmatch(NAME, path.name))


def interpreters(candidates: list[Path]) -> dict[tuple[int, int], str]:
    """Return the first interpreter found of each supported version."""
    found: dict[tuple[int, int], str] = {}
    for path in candidates:
        try:
            # pyenv has shims for inactive versions, too, which fail.
            probe = subprocess.run(
                [str(path), "-c", PROBE], capture_output=True, check=True, text=True, timeout=20
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if probe.stdout:
            major, minor, executable = probe.stdout.rstrip("\n").split(" ", 2)
            version = int(major), int(minor)
            if version >= OLDEST_SUPPORTED:
                found.setdefault(version, executable)
    return dict(sorted(found.items()))


def main(wanted: list[str]) -> None:
    of_system = interpreters(installed())
    unpacked = interpreters(in_folder(UNPACKED))
    if not of_system:
        sys.exit("no CPython 3.8 or later with venv and ensurepip found")
    both = {**unpacked, **of_system}
    found = {f"{major}.{minor}": both[major, minor] for major, minor in sorted(both)}
    named = {
        "oldest": {min(of_system)},
        "newest": {max(of_system)},
        "unpacked": set(unpacked),
        "all": set(both),
    }
    chosen: set[str] = set()
    for name in wanted or ["oldest", "newest", "unpacked"]:
        versions = named.get(name)
        chosen |= {name} if versions is None else {f"{a}.{b}" for a, b in versions}
    missing = chosen - found.keys()
    if missing:
        sys.exit(f"no CPython {', '.join(sorted(missing))} here, only {', '.join(found)}")
    for version, path in found.items():
        if version in chosen:
            print(f"{version}={path}")


if __name__ == "__main__":
    main(sys.argv[1:])
