"""Sphinx settings. The build needs no network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trio_websocket._version import __version__

PACKAGE = Path(__file__).resolve().parent.parent / "trio_websocket"

project = "trio-websocket"
release = version = __version__
html_title = f"{project} {release}"
html_theme = "furo"
# Other pages include the two files.
exclude_patterns = ["_build", "modules.md", "performance-table.md"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3

nitpicky = True
# Names that other projects document. The build has no network to look them up.
nitpick_ignore_regex = [
    ("py:.*", r"(collections\.abc|contextlib|ipaddress|ssl|trio|wsproto)\..*"),
    # in annotations
    (
        "py:class",
        r"AbstractAsyncContextManager|ExtraHeaders|ProxyHeaders|SocketPath|StreamFunction",
    ),
    ("py:class", r"(Error)?Handler|Message"),
    ("py:class", r"trio_websocket\._client\.session\.T"),  # a TypeVar
]

autodoc_default_options = {"members": True}
autoclass_content = "both"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Any
) -> Any:
    """Find names by the module that exports them, not by the module that defines them."""
    target = re.sub(r"^trio_websocket\._\w+\.", "trio_websocket.", node["reftarget"])
    if target == node["reftarget"]:
        return None
    python = env.get_domain("py")
    return python.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], target, node, content
    )


def find_comments_of_attributes() -> None:
    """Let Sphinx find the `#:` comments of the private modules in the public module.

    Sphinx looks for them in the `__module__` of a class, which is the public module.
    """
    public = ModuleAnalyzer.for_module("trio_websocket")
    public.analyze()
    for path in sorted(PACKAGE.glob("*/*.py")):
        private = ModuleAnalyzer.for_module(f"trio_websocket.{path.parent.name}.{path.stem}")
        private.analyze()
        start = len(public.tagorder)
        public.tagorder.update({key: start + at for key, at in private.tagorder.items()})
        public.attr_docs.update(private.attr_docs)
        public.annotations.update(private.annotations)


def setup(app: Sphinx) -> None:
    find_comments_of_attributes()
    app.connect("missing-reference", resolve_public_name)
