"""Check, in an environment that has nothing but what was built, that it is whole.

With the argument "pure" the extension in C must not be there. Otherwise it must, unless there is no
compiler on this machine.
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

package = Path(trio_websocket.__file__).parent
assert Path(sys.prefix) in package.parents, f"{package} is not the installed one"
for name in ("py.typed", "_sansio/_speedups.pyi"):
    assert (package / name).is_file(), f"{name} is missing"
distribution = importlib.metadata.distribution("trio-websocket")
files = distribution.files or []
assert any(file.name == "LICENSE" for file in files), "LICENSE is missing"
assert not any(file.suffix == ".c" for file in files), "there is C source among what is installed"

has_speedups = any(file.name.startswith("_speedups.") and file.suffix != ".pyi" for file in files)
assert trio_websocket.HAS_SPEEDUPS is has_speedups, "the extension in C can't be imported"
if sys.argv[1:] == ["pure"]:
    assert not has_speedups, "the extension in C was built"
else:
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    header = Path(sysconfig.get_path("include")) / "Python.h"
    can_compile = shutil.which(compiler) is not None and header.is_file()
    assert has_speedups or not can_compile, "the extension in C was not built"

how = "with the extension in C" if has_speedups else "without the extension in C"
print(f"trio-websocket {distribution.version} works from {package} {how}")
