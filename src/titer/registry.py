"""Methods by name: those of the package and those of installed plug-ins alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from titer.errors import InputError, unknown

Method = TypeVar("Method")


class Registry(Mapping[str, type[Method]], Generic[Method]):
    """A mapping from registered names to frozen dataclasses.

    Args:
        kind: one word for error messages, such as ``certifier``.
        group: the entry-point group through which plug-ins join, such as ``titer.certifiers``.
        own: the package's methods by name (lower case with hyphens).
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, type[Method]]) -> None:
        self.kind = kind
        self.group = group
        self._own = dict(own)

    def _plugins(self) -> dict[str, Any]:
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self._own}

    def __getitem__(self, name: str) -> type[Method]:
        if name in self._own:
            return self._own[name]
        plugins = self._plugins()
        if name not in plugins:
            raise unknown(self.kind, name, [*self._own, *plugins])
        method: type[Method] = plugins[name].load()
        return method

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._plugins()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted([*self._own, *self._plugins()]))

    def __len__(self) -> int:
        return len(self._own) + len(self._plugins())

    def build(self, name: str, **settings: Any) -> Method:
        """The method ``name`` with these settings.

        Raises:
            InputError: for an unknown name or setting; the nearest one that exists is offered.
        """
        method = self[name]
        fields = [field.name for field in dataclasses.fields(method) if field.init]  # type: ignore[arg-type]
        for key in settings:
            if key not in fields:
                raise unknown(f"setting of {self.kind} {name!r}:", key, fields)
        hints = _hints(method)
        given = {
            key: _of_type(value, hints.get(key, Any), f"{self.kind} {name!r}: {key}") for key, value in settings.items()
        }
        try:
            return method(**given)
        except TypeError as error:
            raise InputError(f"{self.kind} {name!r}: {error}") from error


def _hints(method: type) -> dict[str, Any]:
    try:
        return get_type_hints(method)
    except NameError:  # a plug-in that imports a type for type checkers only
        return {}


def _of_type(value: Any, hint: Any, place: str) -> Any:
    """A typed value as its field wants it: a whole number may stand for a number or a text (a file
    named 50), a single value for a tuple of one.

    Raises:
        InputError: naming the place, what was expected and what came.
    """
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in allowed:
        if get_origin(kind) is tuple:
            if value is None:
                continue
            many = value if isinstance(value, tuple | list) else (value,)
            return tuple(_of_type(one, get_args(kind)[0], place) for one in many)
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        if kind is str and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(kind, type):
            return value  # what is no plain type is the method's own to check
        if kind is not float and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    wanted = " or ".join(_SAID.get(kind, str(kind)) for kind in allowed if kind is not NoneType)
    raise InputError(f"{place}: expected {wanted}, got {value!r}")


_SAID = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def settings_of(method: Any) -> dict[str, Any]:
    """All fields of a method, defaults included: its documentation, its cache key and what a run records."""
    return dataclasses.asdict(method)
