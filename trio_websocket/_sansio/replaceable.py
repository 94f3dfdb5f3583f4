"""Properties that applications can replace with an attribute of their own."""

from __future__ import annotations

from typing import Any, Callable, Generic, TypeVar, overload

from .compat import Self

_T = TypeVar("_T")


class ReplaceableProperty(Generic[_T]):
    """A read-only property that gives way if an application assigns to the attribute.

    Applications set their own attributes on connections. When the library adds a property with the
    same name, these applications must not break. The library itself never reads such a property.
    """

    def __init__(self, getter: Callable[[Any], _T]) -> None:
        """:param getter: The method that returns the value; use this class as its decorator."""
        self._getter = getter
        self.__doc__ = getter.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _T: ...

    def __get__(self, instance: object, owner: type) -> Self | _T:
        """Return the value. Python does not call this if the instance has the attribute."""
        return self if instance is None else self._getter(instance)
