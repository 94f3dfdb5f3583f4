"""The imports between the modules of the package, read from the source.

    python -m support.imports        # prints the order of the modules, and forbidden imports

The program needs only Python, so a commit hook can run it.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Tuple

PACKAGE = Path(__file__).resolve().parents[1] / "trio_websocket"
# For each folder, the folders below it. The folder "" holds `_impl` and the public modules.
BELOW: dict[str, set[str]] = {
    "_sansio": set(),
    "_io": {"_sansio"},
    "_connection": {"_sansio", "_io"},
    "_client": {"_sansio", "_io", "_connection"},
    "_server": {"_sansio", "_io", "_connection"},
    "": {"_sansio", "_io", "_connection", "_client", "_server"},
}

Module = Tuple[str, str]  # the folder, and the name


def modules() -> dict[Module, Path]:
    return {
        ("" if path.parent == PACKAGE else path.parent.name, path.stem): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported(path: Path, folder: str) -> set[Module]:
    """Return the modules of the package that a file imports, anywhere in the file."""
    found: set[Module] = set()
    known = {*modules(), ("_sansio", "_speedups")}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".") if node.module else []
        if node.level == 0:
            if parts[:1] != ["trio_websocket"]:
                continue
            parts = parts[1:]
        elif node.level == 1 and folder:
            parts = [folder, *parts]
        if len(parts) == 2:
            found.add((parts[0], parts[1]))
            continue
        base = parts[0] if parts else ""
        for name in [alias.name for alias in node.names]:
            if (base, name) in known:  # from . import name
                found.add((base, name))
            else:
                found.add(("", base or "__init__") if ("", base) in known else (base, "__init__"))
    return found


MODULES = modules()
IMPORTS = {module: imported(path, module[0]) for module, path in MODULES.items()}


def levels(folder: str) -> list[list[Module]]:
    """Return the modules of a folder, lowest first: each level imports only from those before it.

    :raises ValueError: Some modules import one another.
    """
    left = {module for module in MODULES if module[0] == folder}
    found = []
    while left:
        lowest = {module for module in left if not IMPORTS[module] & left}
        if not lowest:
            names = ", ".join("/".join(module) for module in sorted(left))
            raise ValueError(f"these modules import one another: {names}")
        found.append(sorted(lowest))
        left -= lowest
    return found


def upward(module: Module) -> set[Module]:
    """Return the imports of a module that are forbidden: neither its folder nor one below it."""
    folder = module[0]
    others = {other for other in IMPORTS[module] if other[0] not in {folder, *BELOW[folder]}}
    # Every module may know the version.
    return others - {("", "_version")}


def main() -> int:
    status = 0
    for module in MODULES:
        for other in sorted(upward(module)):
            print(f"{'/'.join(module)} must not import {'/'.join(other)}", file=sys.stderr)
            status = 1
    for folder in BELOW:
        print(f"{folder or 'trio_websocket'}:")
        try:
            for number, level in enumerate(levels(folder), 1):
                print(f"  {number}  {', '.join(name for _, name in level)}")
        except ValueError as exc:
            print(exc, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
