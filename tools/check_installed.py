"""Check, in an environment that has nothing but the built wheel, that the wheel is whole."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import trio_websocket

package = Path(trio_websocket.__file__).parent
assert Path(sys.prefix) in package.parents, f"{package} is not the installed one"
assert (package / "py.typed").is_file(), "py.typed is missing"
distribution = importlib.metadata.distribution("trio-websocket")
assert any(file.name == "LICENSE" for file in distribution.files or []), "LICENSE is missing"
print(f"trio-websocket {distribution.version} works from {package}")
