"""Which images a fit may see: labelled shots, without those the model was trained on or will be judged on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from titer.data.example import Data, Example
from titer.data.load import check_allowances, load_all
from titer.data.splits import ALL, finding_shots, of_split, shots, some
from titer.errors import InputError, PictureError

_JUDGED = "test"  # the split that evaluation takes
_OF_ALL = 2  # fewest images of a class where all are taken


@dataclass(frozen=True)
class Selection:
    """Images for a fit.

    Args:
        data: the data set, with the chosen images as its examples, in order of id.
        digests: SHA-256 of each chosen picture.
        left_out: images of the split that the model was trained on, and that were therefore not taken.
    """

    data: Data
    digests: tuple[str, ...]
    left_out: int


def select(
    name: str | Data,
    *,
    count: int | None,
    seed: int,
    upstream: Collection[str] = frozenset(),
    allow: Sequence[str] = (),
    split: str = "train",
    labelled: bool = True,
) -> Selection:
    """The first ``count`` images of each class by SHA-256 of (seed, id), the same for every defense.

    Of a set with several labels for an image, the first ``count`` with each finding and as many without it.

    Args:
        name: a data set's name or directory, or a loaded one with all its splits.
        count: images of each class (of all together where labels are not needed), or None for all: at least two then.
        seed: which shots.
        upstream: SHA-256 of pictures that the model was trained on.
        allow: ``upstream`` takes those too; ``overlap`` accepts pictures and groups that are in the test split as well, and
            that split itself where there is another one; ``outside-paths`` a table that leads out of its directory.
        split: where to take them from.
        labelled: whether labels are needed.

    Raises:
        InputError: if a class has too few images (named, with counts), a picture or group is also in the test split, or
            that split is asked for where there is another one.
    """
    check_allowances(allow)
    data = name if isinstance(name, Data) else load_all(name, allow=allow)
    candidates = of_split(data.examples, split)
    if "overlap" not in allow and split == _JUDGED:
        _without_another(data)
    digests = {} if not upstream else {example.id: _digest(data, example) for example in candidates}
    known = set() if "upstream" in allow else {key for key, digest in digests.items() if digest in upstream}
    fresh = [example for example in candidates if example.id not in known]
    if labelled:
        chosen = shots(fresh, count, seed) if data.exclusive else finding_shots(fresh, count, seed)
    else:
        chosen = some(fresh, count, seed)
    if labelled and not data.exclusive:
        _told_apart(data, chosen, split)
    elif labelled:
        _enough(data, chosen, count, split, len(known))
    elif not chosen:
        raise InputError(f"{data.name}: all {len(known)} images of split {split!r} were seen in training by the model")
    used = tuple(digests.get(example.id) or _digest(data, example) for example in chosen)
    if "overlap" not in allow and split != _JUDGED:
        _disjoint(data, chosen, set(used))
    return Selection(_with(data, chosen, split), used, len(known))


def no_images(name: str | Data, allow: Sequence[str] = ()) -> Selection:
    """What a fit without images is given: the classes alone."""
    data = name if isinstance(name, Data) else load_all(name, allow=allow)
    return Selection(_with(data, (), data.split), (), 0)


def _with(data: Data, chosen: tuple[Example, ...], split: str) -> Data:
    return replace(data, split=split, limit=None, examples=chosen, altered=())


def _digest(data: Data, example: Example) -> str:
    """Of a picture that cannot be read: nothing, so that it equals no other; reading it will tell."""
    try:
        return data.digest(example)
    except PictureError:
        return ""


def _enough(data: Data, chosen: Sequence[Example], count: int | None, split: str, left_out: int) -> None:
    found = {text.label: sum(example.label == place for example in chosen) for place, text in enumerate(data.classes)}
    short = {label: number for label, number in found.items() if number < (count or _OF_ALL)}
    if not data.classes or short:
        listed = ", ".join(f"{label} has {number}" for label, number in short.items()) or "there are no labels"
        seen = (
            f", not counting {left_out} that the model was trained on (--allow upstream takes them)" if left_out else ""
        )
        wanted = f"{count} shots" if count else "at least two images"
        hint = (
            ""
            if count or not short
            else "; one picture does not show how a class varies; leave it out, or give a number of shots"
        )
        raise InputError(f"{data.name}: expected {wanted} of each class in split {split!r}, but {listed}{seen}{hint}")


def _told_apart(data: Data, chosen: Sequence[Example], split: str) -> None:
    """Refuse a finding that all known images have, or none."""
    for place, text in enumerate(data.classes):
        known = {example.findings[place] for example in chosen} - {None}
        if len(known) < 2:
            told = "all known images have it" if known == {True} else "no known image has it"
            raise InputError(
                f"{data.name}: nothing can be learned of {text.label!r} in split {split!r}: {told}; expected both, or a "
                "choice of columns: multilabel:COLUMN+COLUMN@DATA"
            )


def _without_another(data: Data) -> None:
    """Refuse the split that evaluation takes, unless the data have no other one to learn from."""
    others = sorted({example.split for example in data.examples} - {_JUDGED, ALL})
    if others:
        raise InputError(
            f"{data.name}: split {_JUDGED!r} is the one that evaluation takes; expected a fit on {' or '.join(others)}; "
            "--allow overlap accepts that"
        )


def _disjoint(data: Data, chosen: Sequence[Example], digests: set[str]) -> None:
    """Refuse images that evaluation will see as well, by bytes or by group."""
    ids, groups = {example.id for example in chosen}, {example.group for example in chosen} - {None}
    judged = [example for example in data.examples if example.split == _JUDGED and example.id not in ids]
    sharing = sorted({str(example.group) for example in judged if example.group in groups})
    if sharing:
        raise InputError(
            f"{data.name}: {len(sharing)} groups (patients, slides) of the fit are also in split {_JUDGED!r}, such as "
            f"{sharing[0]!r}; --allow overlap accepts that"
        )
    twice = [example.id for example in judged if (digest := _digest(data, example)) and digest in digests]
    if twice:
        raise InputError(
            f"{data.name}: {len(twice)} pictures of the fit are also in split {_JUDGED!r}, such as {twice[0]}; "
            "--allow overlap accepts that"
        )
