"""Tests use only what their tier allows, read from their source.

Unit tests do no I/O, or use streams in memory, so that they take seconds. Tests that need sockets
belong in tests/integration, and tests of arbitrary data in tests/exhaustive. Tests and tools don't
import each other; support/ has what both need.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "tests" / "unit"
FILES = sorted({*UNIT.glob("*.py")} - {UNIT / "test_tiers.py"})

SLOW_MODULES = {"hypothesis", "multiprocessing", "socket", "subprocess"}
SOCKETS = {
    # Keys of support.streams.PAIRS.
    *("tcp", "tls", "own-tls", "socketpair"),
    # Functions of support and Trio.
    *("tcp_pair", "tls_pair", "own_tls_pair", "socket_pair", "start_raw_server"),
    *("open_tcp_stream", "open_tcp_listeners", "open_unix_socket", "serve_tcp"),
}


def imports(tree: ast.AST) -> set[str]:
    """Return the top-level names of the modules that a file imports."""
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
    return {module.partition(".")[0] for module in modules}


def names(tree: ast.AST) -> set[str]:
    """Return the names and strings in a file, without those in `@pytest.mark.streams`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.decorator_list = [
                decorator
                for decorator in node.decorator_list
                if "attr='streams'" not in ast.dump(decorator)
            ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_unit_tests_use_no_sockets_processes_or_arbitrary_data(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not imports(tree) & SLOW_MODULES
    assert not names(tree) & SOCKETS


@pytest.mark.parametrize(
    ("folder", "others"),
    [
        ("tests", {"benchmarks", "tools"}),
        ("support", {"benchmarks", "tests", "tools"}),
        ("tools", {"benchmarks", "tests"}),
        ("benchmarks", {"tests"}),
    ],
)
def test_tests_and_tools_do_not_import_each_other(folder: str, others: set[str]) -> None:
    suspect = re.compile(rf"(from|import) ({'|'.join(others)})\b")
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text("utf-8")
        if suspect.search(text):  # parsing all files would take seconds
            assert not imports(ast.parse(text)) & others, path
