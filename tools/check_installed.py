"""Check an environment that has only the built package.

The installed files must be those of this checkout. With the argument "pure" the extension
in C must be missing. Otherwise it must be there, unless this machine has no compiler.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

import trio_websocket

SOURCE = Path(__file__).resolve().parent.parent / "trio_websocket"
BINARY = (".so", ".pyd")


def files_of(package: Path) -> set[str]:
    """Return the files of a package, without the compiled Python files."""
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(package).as_posix() for path in files}


package = Path(trio_websocket.__file__).parent
assert Path(sys.prefix) in package.parents, f"{package} is not the installed package"
expected = {name for name in files_of(SOURCE) if not name.endswith((".c", *BINARY))}
assert {"py.typed", "_sansio/_speedups.pyi", "_impl.py"} <= expected, f"{SOURCE} is incomplete"
installed = files_of(package)
binaries = {name for name in installed if name.endswith(BINARY)}
missing, extra = expected - installed, installed - binaries - expected
assert not missing, f"not installed: {sorted(missing)}"
assert not extra, f"installed, but not in the source: {sorted(extra)}"
for name in expected:
    assert (package / name).read_bytes() == (SOURCE / name).read_bytes(), f"{name} differs"
distribution = importlib.metadata.distribution("trio-websocket")
assert any(file.name == "LICENSE" for file in distribution.files or []), "LICENSE is missing"

assert len(binaries) <= 1, f"more than one extension in C: {sorted(binaries)}"
assert trio_websocket.HAS_SPEEDUPS is bool(binaries), "the extension in C can't be imported"
if sys.argv[1:] == ["pure"]:
    assert not binaries, "the extension in C was built"
else:
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    header = Path(sysconfig.get_path("include")) / "Python.h"
    can_compile = shutil.which(compiler) is not None and header.is_file()
    assert binaries or not can_compile, "the extension in C was not built"

how = "with the extension in C" if binaries else "without the extension in C"
print(f"trio-websocket {distribution.version} works from {package} {how}, {len(installed)} files")
