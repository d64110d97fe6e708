"""An audit before its first picture: everything is loaded and checked here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titer.attacks.words import MaskedLanguageModel
from titer.data import load_data
from titer.data.example import Data, Example
from titer.data.fingerprint import digest
from titer.errors import InputError, PictureError, unknown
from titer.evaluate.machine import reuse_buffers
from titer.evaluate.subject import Subject
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.registry import Registry, settings_of
from titer.upstream.audit.canaries import CONTROL, FAMILIES
from titer.upstream.audit.pairs import same_words
from titer.upstream.audit.signals import SIGNALS, Rule

FEWEST_PAIRS = 50
_TOGETHER = 8  # pairs encoded or attacked together; fixed, so that no record depends on how the work was spread

_RULES: Registry[Rule] = Registry("verb", "titer.audits", {"audit": Rule})


@dataclass(frozen=True, eq=False, kw_only=True)
class AuditPlan(Subject):
    """An audit before its first picture: everything that decides its records.

    Args:
        second: another encoder, for signals of its own and for where the two disagree.
        rule: how pairs are ranked.
        language: a masked language model that judges words; a bigram model of the set's own captions where None.
        without: rows of the split that have no caption, and are no pairs.
        trusted: pairs that are believed to be clean, which say what is usual and become canaries; the audited ones where None.
    """

    second: Encoder | None
    rule: Rule
    language: MaskedLanguageModel | None
    without: int
    trusted: Data | None = None

    @property
    def usual(self) -> Data:
        """The pairs that say what is usual."""
        return self.data if self.trusted is None else self.trusted

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """One or two; the first one is attacked by canaries."""
        return (self.encoder,) if self.second is None else (self.encoder, self.second)

    @property
    def together(self) -> int:
        """Pairs encoded or attacked together."""
        return _TOGETHER

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""
        language = self.language
        return {
            **settings_of(self.rule),
            "surprisal": "bigrams of the set's captions"
            if language is None
            else {"path": language.path, "fingerprint": language.fingerprint()},
            "by": list(self.by),
        }

    def identity(self) -> dict[str, Any]:
        """All that changes a number."""
        settings = {name: value for name, value in self.settings().items() if name != "by"}
        if self.language is not None:
            settings["surprisal"] = self.language.fingerprint()
        return {
            **self.who(),
            "verb": "audit",
            "signals": list(SIGNALS),
            "second": None if self.second is None else self.second.fingerprint,
            "rows": _rows(self.data),
            **({} if self.trusted is None else {"trusted": _rows(self.trusted)}),
            "settings": settings,
            "together": self.together,
        }

    def info(self, command: str) -> dict[str, Any]:
        """What run.json says before the first picture."""
        told = self.info_of("audit", self.settings(), command)
        second = self.second
        return {
            **told,
            **({"second": {"name": second.name, "fingerprint": second.fingerprint}} if second is not None else {}),
            **({} if self.trusted is None else {"trusted": self._trusted()}),
            "without_caption": self.without,
            "signals": dict(SIGNALS),
            "families": {name: FAMILIES[name].says for name in self.rule.planted},
            "control": CONTROL,
        }

    def _trusted(self) -> dict[str, Any]:
        rows = self.usual
        return {
            "name": rows.name,
            "split": rows.split,
            "pairs": len(rows),
            "groups": len(set(map(self.tie, rows.examples))),
        }

    def tie(self, example: Example) -> str:
        """What ties pairs together: their group, else their picture."""
        return f"group\x00{example.group}" if example.group is not None else f"path\x00{example.path}"


def plan_audit(
    models: Sequence[str | Encoder],
    data: str | Path | Data,
    *,
    trusted: str | Path | Data | None = None,
    split: str = "train",
    trusted_split: str = "all",
    limit: int | None = None,
    seed: int = 0,
    by: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    dtype: str = "float32",
) -> AuditPlan:
    """Load and check everything before the first picture is opened.

    Args:
        models: one or two, by name or as encoders. Pictures are brought to the first one's input size.
        data: a data set's name or directory, or a loaded one, with captions.
        trusted: the same of pairs that are believed to be clean, none of which is audited. What is usual is then learned from
            these, canaries are made of them, and thresholds are theirs.
        split, limit: of the data set; ``limit`` counts rows.
        trusted_split: of the trusted one.
        seed: which captions are compared, which pairs become canaries, and their attacks.
        by: columns of the table that records carry.
        settings: of the rule; ``surprisal`` is a table with the ``path`` of a masked language model.
        device, dtype: of the models.

    Raises:
        InputError: for whatever is wrong with the input.
    """
    reuse_buffers()
    if seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed}")
    if not 1 <= len(models) <= 2:
        raise InputError(f"--model: expected one or two models, got {len(models)}")
    _check_different([model.name if isinstance(model, Encoder) else model for model in models])
    given = dict(settings or {})
    language = _language(given.pop("surprisal", None))
    rule = _RULES.build("audit", **given)
    everything = data if isinstance(data, Data) else load_data(data, split=split, limit=limit)
    for column in by:
        if column not in everything.columns:
            raise unknown("column", column, everything.columns)
    captioned = _captioned(everything)
    believed = None
    if trusted is not None:
        believed = _captioned(trusted if isinstance(trusted, Data) else load_data(trusted, split=trusted_split))
        _check_apart(captioned, believed)
    _check_pairs(captioned if believed is None else believed, rule)
    encoders = [
        model if isinstance(model, Encoder) else load_model(model, device=device, dtype=dtype) for model in models
    ]
    _check_different([encoder.fingerprint for encoder in encoders])
    return AuditPlan(
        encoder=encoders[0],
        data=captioned,
        classifiers={},
        seed=seed,
        by=tuple(by),
        second=encoders[1] if len(encoders) == 2 else None,
        rule=rule,
        language=language,
        without=len(everything) - len(captioned),
        trusted=believed,
    )


def _rows(data: Data) -> str:
    return digest([f"{row.path}\x00{row.label}\x00{row.group}\x00{row.caption}" for row in data.examples])


def _check_different(models: Sequence[str]) -> None:
    if len(set(models)) < len(models):
        raise InputError(f"--model: {models[0]} is given twice; expected two different models")


def _language(given: object) -> MaskedLanguageModel | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or set(given) != {"path"}:
        raise InputError(f"surprisal: expected surprisal.path=DIRECTORY of a masked language model, got {given!r}")
    found = MaskedLanguageModel(str(given["path"]))
    found.fingerprint()  # one that cannot be read is told before the encoder is loaded
    return found


def _captioned(data: Data) -> Data:
    """The rows that are pairs.

    Raises:
        InputError: if none is.
    """
    pairs = tuple(row for row in data.examples if row.caption is not None)
    if not pairs:
        raise InputError(
            f"{data.name} has no captions in the split {data.split!r}; expected a table with a column 'caption', or "
            "captioned:DATA for a set with labels"
        )
    return dataclasses.replace(data, examples=pairs)


def _check_pairs(data: Data, rule: Rule) -> None:
    fewest = max(FEWEST_PAIRS, rule.k + 1)
    if len(data) < fewest:
        raise InputError(
            f"{data.name} has {len(data)} captioned pairs in the split {data.split!r}; expected at least {fewest}: among "
            "fewer nothing can be told to be unusual"
        )
    if len(set(same_words([str(row.caption) for row in data.examples]).tolist())) < 2:
        raise InputError(f"{data.name}: all pairs of the split {data.split!r} have one caption; expected several")


def _check_apart(data: Data, trusted: Data) -> None:
    """A pair that is trusted and audited would be its own nearest neighbour."""
    seen = set(_digests(data))
    shared = [
        row for row, own in zip(trusted.examples, _digests(trusted), strict=True) if own is not None and own in seen
    ]
    if shared:
        raise InputError(
            f"--trusted: {len(shared)} pictures of {trusted.name} are audited, too, such as {shared[0].id}; expected pictures "
            "that are not"
        )


def _digests(data: Data) -> Iterator[str | None]:
    """Of each picture; None for one that cannot be read, which is told later."""
    for row in data.examples:
        try:
            yield data.digest(row)
        except PictureError:
            yield None
