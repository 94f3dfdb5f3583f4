"""The directions of imports in the package, types included.

The folders are layers. A module imports from its own folder and from the layers below it. `_client`
and `_server` are on the same level. So are the public modules above them.
"""

from __future__ import annotations

import ast
from typing import Iterator

import pytest

from support.imports import BELOW, MODULES, PACKAGE, levels, upward

NOT_SANSIO = {"trio", "socket", "select", "time", "asyncio", "threading"}


def test_folders_are_one_level_deep() -> None:
    assert {folder for folder, _ in MODULES} == set(BELOW)
    assert all(PACKAGE in {path.parent, path.parent.parent} for path in MODULES.values())


@pytest.mark.parametrize("module", MODULES, ids="/".join)
def test_module_imports_only_from_its_folder_and_below(module: tuple[str, str]) -> None:
    assert not upward(module)


@pytest.mark.parametrize("folder", BELOW)
def test_imports_within_a_folder_form_no_circle(folder: str) -> None:
    assert levels(folder)


@pytest.mark.parametrize("module", [m for m in MODULES if m[0] == "_sansio"], ids="/".join)
def test_sansio_module_imports_no_io(module: tuple[str, str]) -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    assert not names & NOT_SANSIO


# Attributes of Trio's classes and of exceptions that callers may set, and class metadata.
ASSIGNABLE = {"shield", "deadline", "errno", "library", "reason"}
ASSIGNABLE |= {"__cause__", "__traceback__", "__module__", "__annotations__"}


def assigned(tree: ast.AST) -> Iterator[ast.expr]:
    """Return the attributes that the statements of a module assign or delete."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and not isinstance(node.ctx, ast.Load):
            yield node


@pytest.mark.parametrize("module", MODULES, ids="/".join)
def test_module_assigns_no_attribute_of_another_object(module: tuple[str, str]) -> None:
    for target in assigned(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(target, ast.Attribute) and target.attr not in ASSIGNABLE:
            assert isinstance(target.value, ast.Name)
            assert target.value.id == "self", f"line {target.lineno}"
