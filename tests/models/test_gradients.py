"""Layers with cheap gradients: those of the library's layers, and of their answers not a bit is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

import titer
from titer.models.gradients import Patches, QuickGelu, with_cheap_gradients
from titer.models.towers import vision_tower


def layer(**changes: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 5, **{"kernel_size": 4, "stride": 4, **changes}).requires_grad_(False)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def gradient(module: nn.Module, shown: Tensor) -> tuple[Tensor, Tensor]:
    shown = shown.clone().requires_grad_()
    found = module(shown)
    weights = images(*found.shape).to(found)
    return found.detach(), torch.autograd.grad((found * weights).sum(), shown)[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 12, 8), (3, 3, 10, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_the_same_and_gradients_but_for_rounding(
    bias: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    plain = layer(bias=bias).to(dtype)
    answer, slope = gradient(Patches(plain), images(*shape).to(dtype))
    expected, expected_slope = gradient(plain, images(*shape).to(dtype))
    assert torch.equal(answer, expected)
    assert slope.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert torch.allclose(slope, expected_slope, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_quick_gelu_is_the_librarys(dtype: torch.dtype) -> None:
    values = (5 * images(40, 30)).to(dtype)
    answer, slope = gradient(QuickGelu(), values)
    expected, expected_slope = gradient(QuickGELUActivation(), values)
    assert torch.equal(answer, expected)
    assert slope.dtype == dtype
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 0.05, torch.float64: 1e-12}[dtype]
    assert torch.allclose(slope, expected_slope, atol=tolerance, rtol=tolerance)
    assert torch.equal(QuickGelu()(values), answer)


def test_in_half_precision_by_autocast_there_is_a_gradient_too() -> None:
    def half(shown: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found: Tensor = Patches(layer())(shown)
        return found

    shown = images(2, 3, 8, 8).requires_grad_()
    (slope,) = torch.autograd.grad(half(shown).float().sum(), shown)
    _, expected = gradient(layer(), images(2, 3, 8, 8))
    assert slope.dtype == torch.float32
    assert slope.shape == expected.shape
    assert bool(slope.any())


def test_a_gradient_of_the_gradient_is_that_of_the_library() -> None:
    def second(module: nn.Module) -> Tensor:
        shown = images(1, 3, 4, 4).requires_grad_()
        (slope,) = torch.autograd.grad(module(shown).pow(3).sum(), shown, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), shown)[0]

    assert torch.allclose(second(Patches(layer())), second(layer()), rtol=1e-4, atol=1e-4)
    assert torch.allclose(second(QuickGelu()), second(QuickGELUActivation()), rtol=1e-4, atol=1e-4)


def test_weights_that_are_learned_get_their_gradient() -> None:
    module = Patches(layer().requires_grad_())
    module(images(1, 3, 4, 4).requires_grad_()).sum().backward()
    assert module.weight.grad is not None
    assert module.bias is not None
    assert module.bias.grad is not None


@pytest.mark.parametrize(
    "changes", [{"stride": 2}, {"kernel_size": (4, 2)}, {"padding": 1}, {"dilation": 2}, {"kernel_size": 2}]
)
def test_a_layer_of_another_kind_stays(changes: dict[str, Any]) -> None:
    embeddings = nn.Module()
    embeddings.patch_embedding = plain = layer(**changes)
    with_cheap_gradients(embeddings)
    assert embeddings.patch_embedding is plain


def test_encoders_have_it_and_keep_their_weights() -> None:
    vision: Any = vision_tower(titer.load_model("titer:tiny")).vision
    module = vision.embeddings.patch_embedding
    assert isinstance(module, Patches)
    assert set(module.state_dict()) == {"weight"}
    assert not module.training
    assert all(isinstance(layer.mlp.activation_fn, QuickGelu) for layer in vision.encoder.layers)
    text: Any = titer.load_model("titer:tiny").text_tower
    assert all(isinstance(layer.mlp.activation_fn, QuickGelu) for layer in text.layers)
