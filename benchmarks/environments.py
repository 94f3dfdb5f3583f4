"""Virtual environments of the peers, below .venvs/. They are rebuilt when requirements change."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALL_LIMIT = 600  # seconds for each call of pip


class InstallError(Exception):
    """An environment can't be created, perhaps because a peer does not support this Python."""


def environment(
    name: str, requirements: tuple[str, ...], *, ours: bool = False, checkout: Path = ROOT
) -> Path:
    """Return the interpreter of an environment. If `ours`, install the checkout as a wheel."""
    folder = ROOT / ".venvs" / f"bench-{name}"
    python = folder / "bin" / "python"
    stamp = folder / "made-of"
    made_of = f"{platform.python_version()} {sys.executable} {requirements}"
    if not stamp.exists() or stamp.read_text() != made_of:
        print(f"making {folder.relative_to(ROOT)}", file=sys.stderr, flush=True)
        run(sys.executable, "-m", "venv", "--clear", folder)
        run(python, "-m", "pip", "install", "-q", *requirements)
        find_tools(python)
        stamp.write_text(made_of)
    if ours:
        install_checkout(python, checkout, folder / "checkout")
    return python


def find_tools(python: Path) -> None:
    """Let the interpreter import modules of this tree. Installed packages take precedence."""
    command = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = Path(run(python, "-c", command).strip())
    (folder / "bench.pth").write_text(f"{ROOT}\n")


def install_checkout(python: Path, root: Path, stamp: Path) -> None:
    sources = [
        root / "pyproject.toml",
        root / "setup.py",
        *sorted(root.glob("trio_websocket/**/*")),
    ]
    parts = [path.read_bytes() for path in sources if path.suffix in {".toml", ".py", ".c", ".h"}]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    with tempfile.TemporaryDirectory() as copy:
        checkout = Path(copy) / "checkout"
        # A build in place would leave files in the checkout, and reuse those of an older build.
        left_out = shutil.ignore_patterns(".*", "*.egg-info", "*.so", "build", "dist", "docs")
        shutil.copytree(root, checkout, ignore=left_out)
        run(python, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", checkout)
    stamp.write_text(digest)


def versions(python: Path) -> dict[str, str]:
    """Return the versions of the installed packages, by name."""
    freeze = run(python, "-m", "pip", "list", "--format=freeze").split()
    return {name: version for name, _, version in (line.partition("==") for line in freeze)}


def run(*command: str | Path) -> str:
    """Run a command, which must succeed, and return its output."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        encoding="utf-8",
        timeout=INSTALL_LIMIT,
    )
    if done.returncode:
        raise InstallError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
