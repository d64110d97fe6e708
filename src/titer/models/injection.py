"""Learned tokens inside a frozen transformer: a hook writes them into a module's output.

The backbone's code is untouched and never learns a method's name. A hook is put in place once; what it writes is set
per thread for the length of a `with` block, so that workers may use one model with different prompts at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

_Change = Callable[[Tensor], Tensor]
_Writing = AbstractContextManager[None]


class Injection:
    """Puts learned tokens into the output of one module, such as a token embedding or a layer.

    Args:
        module: its output (batch, length, width) gets the tokens; the first entry of a tuple counts as the output.
    """

    def __init__(self, module: nn.Module) -> None:
        self._current = threading.local()
        module.register_forward_hook(self._write)

    def __deepcopy__(self, memo: dict[int, object]) -> Injection:
        """Of a copied module, whose hook is copied with it; what is being written stays with this one."""
        twin = object.__new__(Injection)
        memo[id(self)] = twin
        twin._current = threading.local()
        return twin

    def of(self, tokens: Tensor, start: int | Tensor) -> _Writing:
        """While the block runs in this thread, rows ``start`` onwards are the tokens.

        Args:
            tokens: (tokens, width) for all rows of the batch, or (batch, tokens, width). None at all changes nothing.
            start: first row to be overwritten, from the end where below 0; or the places (batch, tokens) themselves.
        """
        if not tokens.shape[-2]:
            return self._while(None)
        if isinstance(start, Tensor):
            return self._while(partial(_scattered, tokens, start))
        return self._while(partial(_overwritten, tokens, start))

    def behind(self, tokens: Tensor) -> _Writing:
        """While the block runs in this thread, the tokens stand behind the last row, which makes the output longer.

        Args:
            tokens: (tokens, width).
        """
        return self._while(partial(_appended, tokens) if tokens.shape[-2] else None)

    def watched(self, into: list[Tensor]) -> _Writing:
        """While the block runs in this thread, the output (batch, length, width) of each call is appended to a list."""

        def kept(hidden: Tensor) -> Tensor:
            into.append(hidden)
            return hidden

        return self._while(kept)

    @contextmanager
    def _while(self, change: _Change | None) -> Iterator[None]:
        before = self._chosen()
        self._current.value = change
        try:
            yield
        finally:
            self._current.value = before

    def _chosen(self) -> _Change | None:
        return getattr(self._current, "value", None)

    def _write(self, module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:  # noqa: ARG002
        change = self._chosen()
        if change is None:
            return None
        if isinstance(output, Tensor):
            return change(output)
        return (change(output[0]), *output[1:])


def _overwritten(tokens: Tensor, start: int, hidden: Tensor) -> Tensor:
    """A copy of ``hidden`` with the tokens in place; gradients reach both."""
    rows = _for_each(tokens, hidden)
    first = start % hidden.shape[1]
    return hidden.slice_scatter(rows, dim=1, start=first, end=first + rows.shape[1])


def _scattered(tokens: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
    rows = _for_each(tokens, hidden)
    return hidden.scatter(1, places.to(hidden.device)[:, :, None].expand_as(rows), rows)


def _appended(tokens: Tensor, hidden: Tensor) -> Tensor:
    return torch.cat([hidden, _for_each(tokens, hidden)], dim=1)


def _for_each(tokens: Tensor, hidden: Tensor) -> Tensor:
    return tokens.to(hidden).expand(len(hidden), *tokens.shape[-2:])
