"""`sep`, `co-attack` and `sga` against their published descriptions, written out here without anything of the package's.

Only the random numbers are the package's: a start for each image, then, for `sga`, noise for each scale at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import titer
from attacks.test_words import TABLE, encode_words
from titer.attacks import Random, Threat
from titer.attacks.pairs import build_pair_attack

SIDE, EPSILON = 8, 0.03
TEXTS = (("a large mass", "the mass here"), ("benign lump",), ("a big node", "big"))
SYNONYMS = {
    "mass": ("lump", "node"),
    "lump": ("mass", "node"),
    "node": ("mass", "lump"),
    "large": ("big",),
    "big": ("large",),
}
SCALES = (0.5, 0.75, 1.25, 1.5)

Pair = tuple[Tensor, list[list[str]]]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


INNER, OUTER = drawn(0, 12, 3 * SIDE * SIDE) / 6, drawn(1, 3, 12)
IMAGES = 0.5 + 0.1 * drawn(2, len(TEXTS), 3, SIDE, SIDE).clamp(-3, 3)


def tower(normalised: Tensor) -> Tensor:
    return torch.tanh(normalised.flatten(1) @ INNER.T) @ OUTER.T


def of_images(images: Tensor) -> Tensor:
    features = tower((images - 0.5) / 0.25)
    lengths: Tensor = features.norm(dim=1, keepdim=True)
    return features / lengths


def of_text(text: str) -> Tensor:
    features = encode_words([text])[0]
    length: Tensor = features.norm()
    return features / length


def kl(first: Tensor, second: Tensor) -> Tensor:
    """KL divergence of the softmax of the second from that of the first."""
    p, q = first.exp() / first.exp().sum(-1, keepdim=True), second.exp() / second.exp().sum(-1, keepdim=True)
    return (p * (p / q).log()).sum(-1)


def swapped(text: str, gain: Callable[[Tensor], Tensor]) -> str:
    """One word, that whose absence moves the text most, is replaced by the synonym of largest gain."""
    words = text.split()

    def with_word(place: int, word: str) -> str:
        return " ".join([*words[:place], word, *words[place + 1 :]])

    places = [place for place, word in enumerate(words) if word in SYNONYMS]
    place = max(places, key=lambda place: float(kl(of_text(text), of_text(with_word(place, "[UNK]")))))
    best = max((with_word(place, word) for word in SYNONYMS[words[place]]), key=lambda new: float(gain(of_text(new))))
    return best if float(gain(of_text(best))) > float(gain(of_text(text))) else text


def away_from_itself(texts: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[swapped(text, lambda new, text=text: kl(of_text(text), new)) for text in own] for own in texts]  # type: ignore[misc]


def away_from(images: Tensor) -> list[list[str]]:
    shown = of_images(images)
    return [[swapped(text, lambda new, row=row: -(new @ shown[row])) for text in own] for row, own in enumerate(TEXTS)]  # type: ignore[misc]


def ascended(start: Tensor, loss: Callable[[Tensor], Tensor], steps: int, step: float) -> Tensor:
    current = start
    for _ in range(steps):
        current = current.detach().requires_grad_()
        loss(current).backward()  # type: ignore[no-untyped-call]
        assert current.grad is not None
        moved = current.detach() + step * current.grad.sign()
        current = (IMAGES + (moved - IMAGES).clamp(-EPSILON, EPSILON)).clamp(0, 1)
    return current


def one_sided(random: Random) -> Tensor:
    return IMAGES + random.uniform(3, SIDE, SIDE, low=-EPSILON, high=EPSILON).abs()


def sep(random: Random, steps: int) -> Pair:
    clean = of_images(IMAGES)
    return (
        ascended(one_sided(random), lambda shown: kl(clean, of_images(shown)).sum(), steps, EPSILON / 8),
        away_from_itself(TEXTS),
    )


def co_attack(random: Random, steps: int) -> Pair:
    """Text first; then the image leaves itself and, three times as much, the swapped texts."""
    texts, clean = away_from_itself(TEXTS), of_images(IMAGES)

    def loss(shown: Tensor) -> Tensor:
        features = of_images(shown)
        total = kl(clean, features).sum()
        for row, own in enumerate(texts):
            for text in own:
                total = total + 3 * kl(of_text(text), features[row]) / len(own)
        return total

    return ascended(one_sided(random), loss, steps, EPSILON / 8), texts


def sga(random: Random, steps: int) -> Pair:
    """Texts against the image; the image, at all scales, against all of its texts; the clean texts against that image."""
    texts = away_from(IMAGES)

    def loss(shown: Tensor) -> Tensor:
        views = [shown]
        for scale in SCALES:
            noisy = shown + 0.05 * random.normal(3, SIDE, SIDE)
            small = F.interpolate(noisy, size=(round(scale * SIDE),) * 2, mode="bicubic").clamp(0, 1)
            views.append(F.interpolate(small, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1))
        total = torch.zeros(())
        for view in views:
            features = of_images(view)
            for row, own in enumerate(texts):
                for text in own:
                    total = total - features[row] @ of_text(text) / len(own)
        return total

    start = IMAGES + random.uniform(3, SIDE, SIDE, low=-EPSILON, high=EPSILON)
    moved = ascended(start, loss, steps, EPSILON / 4)
    return moved, away_from(moved)


def ours(name: str, words: Path, steps: int, **settings: float) -> Pair:
    words.write_text(TABLE)
    swap = {"source": {"name": "synonyms", "path": str(words)}}
    attack = build_pair_attack(name, steps=steps, keep="last", swap=swap, **settings)
    half, quarter = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    encoder = titer.wrap(tower, encode_words, SIDE, half, quarter, fingerprint="toy")
    found = attack(encoder, IMAGES, TEXTS, Threat("linf", EPSILON), streams())
    return found.images, [[text.text for text in own] for own in found.texts]


def streams() -> Random:
    return Random(0, "reference", [str(row) for row in range(len(TEXTS))])


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(("name", "reference"), [("sep", sep), ("co-attack", co_attack), ("sga", sga)])
def test_images_and_texts_are_those_of_the_description(
    name: str, reference: Callable[[Random, int], Pair], steps: int, tmp_path: Path
) -> None:
    images, texts = ours(name, tmp_path / "words.toml", steps)
    expected, swaps = reference(streams(), steps)
    assert texts == swaps
    assert [list(own) for own in TEXTS] != swaps
    assert float((images - expected).abs().max()) <= 1e-6
    assert float((images - IMAGES).abs().max()) > EPSILON / 10


def test_the_comparison_tells_the_two_terms_of_co_attack_apart(tmp_path: Path) -> None:
    expected, _ = co_attack(streams(), 2)
    for weights in ({"own": 3.0, "cross": 1.0}, {"own": 1.0, "cross": 0.0}, {"own": 0.0, "cross": 3.0}):
        images, _ = ours("co-attack", tmp_path / "words.toml", 2, **weights)
        assert float((images - expected).abs().max()) > EPSILON / 10
