"""What a hook writes over a module's output: places, gradients, threads, nothing left behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from titer.models.injection import Injection

WIDTH, LENGTH = 4, 6


class Pair(nn.Module):
    """A layer that returns its hidden state and something else, as transformers' layers may."""

    def forward(self, hidden: Tensor) -> tuple[Tensor, str]:
        return hidden, "attention"


def hidden(batch: int = 2) -> Tensor:
    return torch.arange(batch * LENGTH * WIDTH, dtype=torch.float32).view(batch, LENGTH, WIDTH)


def test_exactly_the_rows_asked_for_are_overwritten() -> None:
    module = nn.Identity()
    injection, tokens = Injection(module), -torch.ones(2, WIDTH)
    with injection.of(tokens, 1):
        written = module(hidden())
    assert torch.equal(written[:, 1:3], tokens.expand(2, -1, -1))
    assert torch.equal(written[:, [0, 3, 4, 5]], hidden()[:, [0, 3, 4, 5]])


def test_the_modules_own_output_is_not_written_to() -> None:
    module, given = nn.Identity(), hidden()
    injection = Injection(module)
    with injection.of(torch.zeros(1, WIDTH), 0):
        module(given)
    assert torch.equal(given, hidden())


def test_each_row_of_the_batch_may_have_tokens_of_its_own() -> None:
    module, tokens = nn.Identity(), torch.stack([torch.zeros(1, WIDTH), torch.ones(1, WIDTH)])
    injection = Injection(module)
    with injection.of(tokens, 3):
        assert torch.equal(module(hidden())[:, 3:4], tokens)


def test_the_first_entry_of_a_tuple_counts_as_the_output() -> None:
    module = Pair()
    injection = Injection(module)
    with injection.of(torch.zeros(1, WIDTH), 2):
        written, other = module(hidden())
    assert other == "attention"
    assert torch.equal(written[:, 2], torch.zeros(2, WIDTH))
    assert torch.equal(written[:, 3:], hidden()[:, 3:])


def test_no_tokens_and_no_block_change_nothing() -> None:
    module, given = nn.Identity(), hidden()
    injection = Injection(module)
    assert module(given) is given
    with injection.of(torch.empty(0, WIDTH), 1):
        assert module(given) is given


def test_a_block_ends_also_by_an_error_and_an_outer_one_goes_on() -> None:
    module = nn.Identity()
    injection = Injection(module)
    with injection.of(torch.ones(1, WIDTH), 0):
        with pytest.raises(ZeroDivisionError), injection.of(torch.zeros(1, WIDTH), 0):
            _ = 1 / 0
        assert torch.equal(module(hidden())[:, 0], torch.ones(2, WIDTH))
    assert torch.equal(module(hidden()), hidden())


def test_gradients_reach_the_tokens_and_the_rows_beside_them() -> None:
    """Of the sum of squares the gradient is twice the value, and zero where the output was overwritten."""
    module = nn.Identity()
    injection, given = Injection(module), hidden().requires_grad_()
    tokens = torch.full((2, WIDTH), 3.0, requires_grad=True)
    with injection.of(tokens, 1):
        module(given).square().sum().backward()
    assert torch.equal(tokens.grad, torch.full((2, WIDTH), 2 * 2 * 3.0))  # type: ignore[arg-type]
    expected = 2 * hidden()
    expected[:, 1:3] = 0
    assert torch.equal(given.grad, expected)  # type: ignore[arg-type]


def test_tokens_take_the_type_of_the_output() -> None:
    module = nn.Identity()
    injection = Injection(module)
    with injection.of(torch.ones(1, WIDTH), 0):
        assert module(hidden().bfloat16()).dtype == torch.bfloat16


def test_tokens_beyond_the_end_are_an_error() -> None:
    module = nn.Identity()
    injection = Injection(module)
    with injection.of(torch.ones(3, WIDTH), LENGTH - 1), pytest.raises(RuntimeError):
        module(hidden())


def test_threads_do_not_see_each_others_tokens() -> None:
    module, together = nn.Identity(), threading.Barrier(3)
    injection = Injection(module)

    def first_row(value: float | None) -> float:
        if value is None:
            together.wait(10)
            return float(module(hidden())[0, 0, 0])
        with injection.of(torch.full((1, WIDTH), value), 0):
            together.wait(10)  # all blocks are open now
            return float(module(hidden())[0, 0, 0])

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(first_row, [7.0, 8.0, None])) == [7.0, 8.0, 0.0]
