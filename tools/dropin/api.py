"""The public API of the installed trio_websocket as plain data, and the permitted differences.

Without an argument, the script prints the data as JSON. With the name of such a file as its
argument, it prints the differences from that file.
"""

from __future__ import annotations

import inspect
import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict

import trio_websocket
import trio_websocket._impl

Facts = Dict[str, Any]

# Applications get these objects from the library and never construct them.
MADE_BY_LIBRARY = ("WebSocketRequest",)

# Objects that an application may construct: the class and the arguments.
REASON = trio_websocket.CloseReason(1000, None)
# 1014 is left out: it is registered, and 0.12 did not know its name.
CODES = [-1, 0, 999, *range(1000, 1014), 1015, 1016, 2999, 3000, 3999, 4000, 4999, 5000, 70000]
SAMPLES: list[tuple[str, tuple[Any, ...]]] = [
    *(("CloseReason", (code, None)) for code in CODES),
    ("CloseReason", (1001, "bye")),
    ("CloseReason", (1001, "")),
    ("Endpoint", ("127.0.0.1", 80, False)),
    ("Endpoint", ("127.0.0.1", 80, True)),
    ("Endpoint", ("10.0.0.1", 443, True)),
    ("Endpoint", ("10.0.0.1", 443, False)),
    ("Endpoint", ("::1", 8000, True)),
    ("Endpoint", (2130706433, 8000, False)),
    ("Endpoint", ("localhost", 80, False)),
    ("HandshakeError", ()),
    ("HandshakeError", ("why",)),
    ("ConnectionTimeout", ()),
    ("DisconnectionTimeout", ()),
    ("ConnectionRejected", (400, ((b"a", b"b"),), b"body")),
    ("ConnectionRejected", (103, (), None)),
    ("ConnectionClosed", (REASON,)),
    ("ConnectionClosed", (None,)),
]


def dump(package: ModuleType = trio_websocket, impl: ModuleType = trio_websocket._impl) -> Facts:
    """Return the names, signatures, classes, and the properties of the samples."""
    names = sorted(
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    )
    public = {name: getattr(package, name) for name in names}
    return {
        "names": names,
        "impl_names": [name for name in names if getattr(impl, name, None) is public[name]],
        "functions": {n: _callable(v) for n, v in public.items() if inspect.isfunction(v)},
        "classes": {n: _class(v, package) for n, v in public.items() if inspect.isclass(v)},
        "samples": {f"{n}{args!r}": _sample(public[n], args) for n, args in SAMPLES},
    }


def _callable(function: Any) -> Facts:
    parameters = inspect.signature(function).parameters.values()
    # Trio before 0.28 wraps protected async functions in plain functions.
    wrapped = inspect.unwrap(function)
    return {
        "async": inspect.iscoroutinefunction(wrapped),
        "positional": [_parameter(p) for p in parameters if p.kind != p.KEYWORD_ONLY],
        "keywords": {p.name: _default(p) for p in parameters if p.kind == p.KEYWORD_ONLY},
    }


def _parameter(parameter: inspect.Parameter) -> list[str]:
    return [parameter.name, parameter.kind.name, _default(parameter)]


def _default(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else repr(parameter.default)


def _class(cls: Any, package: ModuleType) -> Facts:
    members = {
        name: inspect.getattr_static(cls, name)
        for name in sorted(dir(cls))
        if not name.startswith("_") and not hasattr(BaseException, name)
    }
    own = "__init__" in vars(cls) and cls.__name__ not in MADE_BY_LIBRARY
    return {
        "bases": [_base(base, package) for base in cls.__mro__[1:]],
        "constructor": _callable(cls.__init__) if own else None,
        "methods": {n: _callable(v) for n, v in members.items() if inspect.isfunction(v)},
        "properties": [n for n, v in members.items() if isinstance(v, property)],
        "protocols": [n for n in ("__aenter__", "__aexit__") if hasattr(cls, n)],
    }


def _base(cls: Any, package: ModuleType) -> str:
    mine = cls.__module__.startswith(package.__name__)
    return cls.__name__ if mine else f"{cls.__module__}.{cls.__name__}"


def _sample(cls: Any, args: tuple[Any, ...]) -> Facts:
    try:
        made = cls(*args)
    except Exception as exc:
        return {"raises": type(exc).__name__}
    return {
        "repr": repr(made),
        "pickled": repr(pickle.loads(pickle.dumps(made))),
        "hashable": hash(made) is not None,
        "attributes": _attributes(made),
    }


def _attributes(made: object) -> Facts:
    found = {}
    for name in dir(made):
        value = getattr(made, name, len)  # an OSError has one that can't be read
        if not name.startswith("_") and not callable(value):
            found[name] = repr(value)
    return found


# Intended changes, which docs/migrating.md lists.
_CHANGED = frozenset({"ConnectionClosed(None,)"})


def differences(old: Facts, new: Facts) -> list[str]:
    """Return a line for each difference that a program written for ``old`` could notice."""
    found: list[str] = []
    for key in ("names", "impl_names"):
        found += [f"{key}: {name} is missing" for name in _missing(old[key], new[key])]
    for name, function in old["functions"].items():
        found += _compare_callable(f"{name}()", function, new["functions"].get(name))
    for name, cls in old["classes"].items():
        found += _compare_class(name, cls, new["classes"].get(name))
    for name, sample in old["samples"].items():
        if name not in _CHANGED:
            found += _compare_sample(name, sample, new["samples"].get(name, {}))
    return found


def _missing(old: list[str], new: list[str]) -> list[str]:
    return [name for name in old if name not in new]


def _compare_callable(where: str, old: Facts, new: Facts | None) -> list[str]:
    if new is None:
        return [f"{where}: is missing, or is not a function any more"]
    count = len(old["positional"])
    added = [name for name, _, default in new["positional"][count:] if default == "required"]
    found = [f"{where}: new parameter {name} has no default" for name in added]
    found += [
        f"{where}: {what} was {was}, is {now}"
        for what, was, now in (
            ("async", old["async"], new["async"]),
            ("positional", old["positional"], new["positional"][:count]),
        )
        if was != now
    ]
    for name, default in old["keywords"].items():
        if name not in new["keywords"]:
            found.append(f"{where}: keyword {name} is missing")
        elif new["keywords"][name] != default:
            found.append(f"{where}: {name} was {default}, is {new['keywords'][name]}")
    return found + [
        f"{where}: new keyword {name} has no default"
        for name, default in new["keywords"].items()
        if name not in old["keywords"] and default == "required"
    ]


def _compare_class(where: str, old: Facts, new: Facts | None) -> list[str]:
    if new is None:
        return [f"{where}: is missing, or is not a class any more"]
    found = []
    # Trio's interfaces before 0.23 had the metaclass ABCMeta, but not the base class ABC.
    old_bases = [base for base in old["bases"] if base != "abc.ABC"]
    if [base for base in new["bases"] if base in old_bases] != old_bases:
        found.append(f"{where}: bases were {old['bases']}, are {new['bases']}")
    if old["constructor"]:
        found += _compare_callable(f"{where}.__init__()", old["constructor"], new["constructor"])
    for name, method in old["methods"].items():
        found += _compare_callable(f"{where}.{name}()", method, new["methods"].get(name))
    for key in ("properties", "protocols"):
        found += [f"{where}: {name} is missing" for name in _missing(old[key], new[key])]
    return found


def _compare_sample(where: str, old: Facts, new: Facts) -> list[str]:
    found = [
        f"{where}: {key} was {value}, is {new.get(key)}"
        for key, value in old.items()
        if key != "attributes" and new.get(key) != value
    ]
    attributes = new.get("attributes", {})
    return found + [
        f"{where}.{name}: was {value}, is {attributes.get(name, 'missing')}"
        for name, value in old.get("attributes", {}).items()
        if attributes.get(name) != value
    ]


if __name__ == "__main__":
    if sys.argv[1:]:
        stored = json.loads(Path(sys.argv[1]).read_text())
        sys.exit("\n".join(differences(stored, dump())) or None)
    print(json.dumps(dump(), indent=1, sort_keys=True))
