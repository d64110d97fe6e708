"""Learned tokens inside a frozen transformer: a hook writes them over rows of a module's output.

The backbone's code is untouched and never learns a method's name. A hook is put in place once; what it writes is set
per thread for the length of a `with` block, so that workers may use one model with different prompts at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class Injection:
    """Puts learned tokens into the output of one module, such as a token embedding or a layer.

    Args:
        module: its output (batch, length, width) gets the tokens; the first entry of a tuple counts as the output.
    """

    def __init__(self, module: nn.Module) -> None:
        self._current = threading.local()
        module.register_forward_hook(self._write)

    @contextmanager
    def of(self, tokens: Tensor, start: int) -> Iterator[None]:
        """While the block runs in this thread, rows ``start`` onwards are the tokens.

        Args:
            tokens: (tokens, width) for all rows of the batch, or (batch, tokens, width). None at all changes nothing.
            start: first row to be overwritten.
        """
        before = self._chosen()
        self._current.value = (tokens, start) if tokens.shape[-2] else None
        try:
            yield
        finally:
            self._current.value = before

    def _chosen(self) -> tuple[Tensor, int] | None:
        return getattr(self._current, "value", None)

    def _write(self, module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:  # noqa: ARG002
        chosen = self._chosen()
        if chosen is None:
            return None
        hidden = output if isinstance(output, Tensor) else output[0]
        written = _overwritten(hidden, *chosen)
        return written if isinstance(output, Tensor) else (written, *output[1:])


def _overwritten(hidden: Tensor, tokens: Tensor, start: int) -> Tensor:
    """A copy of ``hidden`` with the tokens in place; gradients reach both."""
    rows = tokens.to(hidden).expand(len(hidden), *tokens.shape[-2:])
    return hidden.slice_scatter(rows, dim=1, start=start, end=start + rows.shape[1])
