"""Print the CPython interpreters of this machine, as VERSION=PATH, oldest first.

Without arguments the oldest supported one and the newest; "newest" or "oldest" for one of them,
"all" for all, or versions such as 3.10. Free-threaded builds and pre-releases don't count.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

OLDEST_SUPPORTED = (3, 8)
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


def candidates() -> list[Path]:
    """Return what may be an interpreter: this one, then PATH's, then pyenv's."""
    found = [Path(sys.executable)]
    for folder in os.get_exec_path():
        found += sorted(
            path for path in Path(folder).glob("python3*") if re.fullmatch(NAME, path.name)
        )
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return found + sorted(pyenv.glob("versions/*/bin/python"))


def interpreters() -> dict[tuple[int, int], str]:
    """Return the first interpreter found of each supported version."""
    found: dict[tuple[int, int], str] = {}
    for path in candidates():
        try:
            # Pyenv's shims stand for versions that aren't active too, and fail.
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
    found = {f"{major}.{minor}": path for (major, minor), path in interpreters().items()}
    if not found:
        sys.exit("no CPython 3.8 or later with venv and ensurepip found")
    versions = list(found)
    named = {"oldest": versions[:1], "newest": versions[-1:], "all": versions}
    chosen = {v for name in wanted or ["oldest", "newest"] for v in named.get(name, [name])}
    missing = chosen - found.keys()
    if missing:
        sys.exit(f"no CPython {', '.join(sorted(missing))} here, only {', '.join(versions)}")
    for version in versions:
        if version in chosen:
            print(f"{version}={found[version]}")


if __name__ == "__main__":
    main(sys.argv[1:])
