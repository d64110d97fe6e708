"""What the co-attention and a linear head learn answers by: on tokens as they are, or on tokens that an MLP has rectified.

RAN-style (reconstructed): one MLP for the tokens of each modality before the fusion. The tokens are frozen, so that distance,
covariance and dominance mean what they do for a head on features; all three are of a modality's mean token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titer.defenses.attacked import attacked_images
from titer.defenses.nmtune import Mlp, feature_distance
from titer.defenses.objectives import cross_entropy
from titer.defenses.ran import Ran
from titer.defenses.task import Task
from titer.features.store import Places
from titer.features.views import CropAndFlip
from titer.models.fusion import CoAttention, mean_of_words, standard
from titer.models.towers import token_towers
from titer.models.weights import fingerprint_of

_READ = 256  # questions read at a time


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of a task's pictures and questions, made beforehand; a picture with several questions is there once.

    Args:
        task: images with questions.
    """

    task: Task

    @cached_property
    def about(self) -> Places:
        """(questions,) which picture each is about."""
        known: dict[str, int] = {}
        keys = (fingerprint_of({"image": self.task.image(place)}) for place in range(len(self.task.ids)))
        return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)

    @cached_property
    def pictures(self) -> Task:
        """Each picture once, without questions; its features are its mean token."""
        first = np.unique(self.about, return_index=True)[1].tolist()
        tower, _ = token_towers(self.task.encoder)
        encoder = replace(
            self.task.encoder, image_tower=lambda images: tower.tokens(images).float().mean(dim=1), dim=tower.width
        )
        ids = [self.task.ids[place] for place in first]
        return replace(
            self.task,
            encoder=encoder,
            ids=ids,
            labels=None,
            questions=(),
            image=lambda place: self.task.image(first[place]),
        )

    def of(self, images: Tensor) -> Tensor:
        """(images, patches, width) in half precision, of images in [0, 1]."""
        encoder = self.task.encoder
        tower, _ = token_towers(encoder)
        with torch.no_grad():
            return tower.tokens(encoder.normalised(images.to(encoder.device))).cpu().half()

    def whole(self) -> Tensor:
        """(pictures, patches, width) of the pictures as they are."""
        return torch.cat([self.of(self.pictures.image(place)[None]) for place in range(len(self.pictures.ids))])

    def crops(self, views: CropAndFlip, count: int) -> Tensor:
        """(pictures, count, patches, width)."""
        found = []
        for place, sample in enumerate(self.pictures.ids):
            image = self.pictures.kept(place)
            found.append(self.of(torch.stack([views(image, sample, self.task.seed, view) for view in range(count)])))
        return torch.stack(found)

    def attacked(self, eps: float, count: int) -> Tensor:
        """(pictures, count, patches, width) of pictures whose mean token was driven from its place."""
        copies = [
            torch.cat([self.of(images) for _, images in attacked_images(self.pictures, eps, copy)])
            for copy in range(count)
        ]
        return torch.stack(copies, dim=1)

    @cached_property
    def words(self) -> Callable[[Places], tuple[Tensor, Tensor]]:
        """Places -> tokens (places, words, width) of their questions, and which of those are no padding."""
        _, reading = token_towers(self.task.encoder)
        texts = list(dict.fromkeys(self.task.questions))
        row = {text: place for place, text in enumerate(texts)}
        with torch.no_grad():
            read = [reading.tokens(texts[first : first + _READ]) for first in range(0, len(texts), _READ)]
        told = [[side.cpu() for side in part] for part in read]
        longest = max(tokens.shape[1] for tokens, _ in told)
        padded = torch.cat([F.pad(tokens, (0, 0, 0, longest - tokens.shape[1])) for tokens, _ in told]).float()
        masks = torch.cat([F.pad(mask, (0, longest - mask.shape[1])) for _, mask in told])

        def at(part: Places) -> tuple[Tensor, Tensor]:
            asked = [row[self.task.questions[place]] for place in part]
            return padded[asked], masks[asked]

        return at


def plain_loss(task: Task, fusion: CoAttention, head: Mapping[str, Tensor]) -> Callable[[Places], Tensor]:
    """Places -> cross-entropy of the answers, on whole pictures.

    Args:
        task: images with questions.
        fusion: that is learned.
        head: ``weight`` and ``bias`` of the linear map to the answers.
    """
    tokens, device = Tokens(task), task.encoder.device
    seen, about, targets = tokens.whole(), tokens.about, task.targets.to(device)

    def loss(part: Places) -> Tensor:
        words, mask = (side.to(device) for side in tokens.words(part))
        features = fusion(seen[about[part]].float().to(device), words, mask)
        return cross_entropy(F.linear(features, head["weight"], head["bias"]), targets[torch.from_numpy(part)])

    return loss


def rectified_loss(
    task: Task,
    fusion: CoAttention,
    head: Mapping[str, Tensor],
    terms: Mlp,
    views: int,
    chance: np.random.Generator,
) -> Callable[[Places], Tensor]:
    """Places -> cross-entropy on two crops of each picture, terms of each modality's mean token, and what attacked pictures add.

    Args:
        task: images with questions.
        fusion: that is learned, with what rectifies tokens in front.
        head: ``weight`` and ``bias`` of the linear map to the answers.
        terms: whose regularisers are added; of ``ran`` also its adversarial consistency, on the image's tokens.
        views: crops, and attacked copies, of each picture.
        chance: which of them a step sees.
    """
    tokens, device = Tokens(task), task.encoder.device
    about, targets = tokens.about, task.targets.to(device)
    seen = tokens.crops(CropAndFlip(terms.smallest, mirror=False), views)
    whole = tokens.whole()
    attacked = tokens.attacked(terms.eps, views) if isinstance(terms, Ran) and terms.sees_attacks else None

    def fitting(images: Tensor, words: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(F.linear(fusion.joined(images, words, mask), head["weight"], head["bias"]), labels)

    def loss(part: Places) -> Tensor:
        rows, labels = about[part], targets[torch.from_numpy(part)]
        first, second = (seen[rows, view].float().to(device) for view in chance.choice(views, 2, replace=False))
        told, mask = (side.to(device) for side in tokens.words(part))
        words, images = fusion.text_front(told), (fusion.image_front(first), fusion.image_front(second))
        of_words, frozen_words = mean_of_words(words, mask), mean_of_words(standard(told), mask)
        total = (fitting(images[0], words, mask, labels) + fitting(images[1], words, mask, labels)) / 2
        total = total + terms.rectify((images[0].mean(dim=1), images[1].mean(dim=1)), standard(first).mean(dim=1))
        total = total + terms.rectify((of_words, of_words), frozen_words)
        if attacked is not None and isinstance(terms, Ran):
            moved = fusion.image_front(attacked[rows, int(chance.integers(views))].float().to(device))
            clean = standard(whole[rows].float().to(device)).mean(dim=1)
            away = feature_distance(moved.mean(dim=1), clean, "paper")
            total = total + terms.adv * (fitting(moved, words, mask, labels) + away)
        return total

    return loss
