"""The directions of imports in the package, types included.

The folders are layers. A module imports from its own folder and from the layers below it. `_client`
and `_server` are beside each other, and so are the public modules above them.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import trio_websocket

PACKAGE = Path(trio_websocket.__file__).parent
# For each folder, the folders below it. The folder "" holds `_impl` and the public modules.
BELOW: dict[str, set[str]] = {
    "_sansio": set(),
    "_io": {"_sansio"},
    "_connection": {"_sansio", "_io"},
    "_client": {"_sansio", "_io", "_connection"},
    "_server": {"_sansio", "_io", "_connection"},
    "": {"_sansio", "_io", "_connection", "_client", "_server"},
}
NOT_SANSIO = {"trio", "socket", "select", "time", "asyncio", "threading"}


def modules() -> dict[tuple[str, str], Path]:
    return {
        ("" if path.parent == PACKAGE else path.parent.name, path.stem): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported(path: Path, folder: str) -> set[tuple[str, str]]:
    """Return the modules of the package that a file imports, wherever the import stands."""
    found: set[tuple[str, str]] = set()
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


def test_folders_are_one_level_deep() -> None:
    assert {folder for folder, _ in MODULES} == set(BELOW)
    assert all(PACKAGE in {path.parent, path.parent.parent} for path in MODULES.values())


@pytest.mark.parametrize("module", MODULES, ids="/".join)
def test_module_imports_only_from_its_folder_and_below(module: tuple[str, str]) -> None:
    folder = module[0]
    above = {other for other in IMPORTS[module] if other[0] not in {folder, *BELOW[folder]}}
    # Every module may know the version, and which modules the package has is said by its folders.
    assert not above - {("", "_version")}


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(folder, marks=pytest.mark.xfail(folder == "_connection", reason="not yet"))
        for folder in BELOW
    ],
)
def test_imports_within_a_folder_form_no_circle(folder: str) -> None:
    left = {module for module in MODULES if module[0] == folder}
    while left:
        lowest = {module for module in left if not IMPORTS[module] & left}
        assert lowest, f"{sorted(left)} import one another"
        left -= lowest


@pytest.mark.parametrize("module", [m for m in MODULES if m[0] == "_sansio"], ids="/".join)
def test_sansio_module_imports_no_io(module: tuple[str, str]) -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    assert not names & NOT_SANSIO
