"""The ``__module__`` of public classes and functions, which `repr()` and pickle show."""

from __future__ import annotations

import contextlib
import types
import typing
from typing import Any, Mapping


def set_public_module(name: str, namespace: Mapping[str, Any]) -> None:
    """Set the ``__module__`` of the classes and functions in a public module.

    :param name: The name of the public module.
    :param namespace: The module's namespace. Names that begin with an underscore are skipped.
    """
    for key, value in namespace.items():
        if key.startswith("_") or not isinstance(value, (type, types.FunctionType)):
            continue
        if isinstance(value, type) and "__annotations__" in vars(value):
            # get_type_hints() looks up names in the class's module, so call it before `__module__`
            # changes. It raises a TypeError if this Python does not support `X | Y` at run time.
            with contextlib.suppress(TypeError):
                value.__annotations__ = typing.get_type_hints(value)
        value.__module__ = name
