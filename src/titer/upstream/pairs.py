"""Image-caption pairs of a split, and what makes a set useless for learning from them."""

from __future__ import annotations

from titer.data.example import Data
from titer.data.splits import of_split
from titer.errors import InputError
from titer.evaluate.retrieval import Captioned, images_of


def captioned_images(data: Data, split: str) -> list[Captioned]:
    """The images of the split that have a caption.

    Args:
        data: all splits.
        split: whose.

    Raises:
        InputError: for a split without captions or with one caption for all, and a group that is in another split too.
    """
    pairs = [image for image in images_of(of_split(data.examples, split)) if image.captions]
    if not pairs:
        raise InputError(
            f"{data.name} has no captions in the split {split!r}; expected a table with a column 'caption', or "
            "captioned:DATA for a set with labels"
        )
    if len({plain(text) for pair in pairs for _, text in pair.captions}) < 2:
        raise InputError(f"{data.name}: all pairs of the split {split!r} have one caption; expected several")
    _check_groups(data, split)
    return pairs


def plain(text: str) -> str:
    """A caption but for case and white space."""
    return " ".join(text.lower().split())


def _check_groups(data: Data, split: str) -> None:
    inside = {row.group for row in of_split(data.examples, split) if row.group is not None}
    for row in data.examples:
        if row.split != split and row.group in inside:
            raise InputError(
                f"{data.name}: the group {row.group!r} is in the split {split!r} and in {row.split!r}; "
                "expected each group in one split, or both sides would know it"
            )
