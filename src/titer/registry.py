"""Methods by name: those of the package and those of installed plug-ins alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

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
        try:
            return method(**settings)
        except TypeError as error:
            raise InputError(f"{self.kind} {name!r}: {error}") from error


def settings_of(method: Any) -> dict[str, Any]:
    """All fields of a method, defaults included: its documentation, its cache key and what a run records."""
    return dataclasses.asdict(method)
