"""Names for annotations that older Python versions lack.

`typing.get_type_hints` looks these names up at run time, when typing_extensions may be missing.
"""

from __future__ import annotations

import collections.abc
import typing
from typing import TYPE_CHECKING, Any, Union

__all__ = ["Buffer", "Self", "TypeGuard", "Unpack"]

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self, TypeGuard, Unpack
else:
    Buffer = getattr(collections.abc, "Buffer", Union[bytes, bytearray, memoryview])
    Self = getattr(typing, "Self", Any)
    TypeGuard = getattr(typing, "TypeGuard", Union)
    Unpack = getattr(typing, "Unpack", Union)  # Union[X] is X
