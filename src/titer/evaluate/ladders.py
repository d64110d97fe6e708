"""What runs of an attack at rising budgets share: how a record is named, and what one process does with records and failures.

Of images `attacking` makes one, of images and their captions `retrieval`, of images and questions `answering`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from titer.attacks import Norm, Threat
from titer.attacks.threat import rising
from titer.data.example import Example
from titer.errors import InputError
from titer.evaluate.running import Crew, running
from titer.evaluate.subject import Subject, kept
from titer.features.stream import threads
from titer.progress import progress
from titer.results.store import Key, Record, RunWriter, key_of

SHOWN = 12  # images of which attacked pictures are kept


@dataclass(frozen=True, eq=False, kw_only=True)
class LadderPlan(Subject, ABC):
    """A run before its first step: everything that decides its records.

    Args:
        name: the attack's registered name.
        threats: one norm, rising budgets.
    """

    name: str
    threats: tuple[Threat, ...]

    verb: ClassVar[str]
    chunk: ClassVar[tuple[int, int]]
    """Images attacked together on a CPU, and on a GPU."""

    @property
    def together(self) -> int:
        """Images attacked together. Fixed, so that no record depends on how the work was spread."""
        return self.chunk[0 if self.encoder.device.type == "cpu" else 1]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""

    def identity(self) -> dict[str, Any]:
        """All that changes a number."""
        settings = without_later({name: value for name, value in self.settings().items() if name != "by"})
        return {**self.who(), "verb": self.verb, "settings": settings, "together": self.together}

    def budgets(self) -> dict[str, Any]:
        """The settings that are not the attack's own."""
        return {
            "norm": self.threats[0].norm,
            "eps": [threat.epsilon for threat in self.threats],
            "by": list(self.by),
        }

    def labels(self, threat: Threat, prompts: str | None = None) -> dict[str, Any]:
        """The fields that name prompt set, where there is one, attack and threat."""
        own = {} if prompts is None else {"prompts": prompts}
        return {**own, "attack": self.name, "norm": threat.norm, "eps": threat.epsilon}

    def key(self, sample: str, threat: Threat, prompts: str | None = None) -> Key:
        """The key of the record that this attack will have."""
        return key_of({"sample_id": sample, **self.labels(threat, prompts)})


def threats_for(name: str, able: Sequence[Norm], norm: Norm, eps: float | Sequence[float]) -> tuple[Threat, ...]:
    """One threat for each budget, upward.

    Raises:
        InputError: for no budget, one that is not positive, or a norm that the attack is not able to.
    """
    threats = rising(norm, eps)
    if norm not in able:
        raise InputError(f"attack {name!r}: expected a norm of {', '.join(able)}, got {norm!r}")
    return threats


def without_later(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without settings that attacks got later, where they are off: what was begun before goes on."""
    return {name: value for name, value in settings.items() if (name, value) != ("stop", False)}


class LadderSession:
    """One process's work on a run.

    Args:
        writer: of the records.
        images: whether thumbnails are kept, where somebody said so.
        samples: ids of all images, in their order.
    """

    def __init__(self, writer: RunWriter, images: bool | None, samples: Sequence[str]) -> None:
        self.writer = writer
        self.images = images
        self.expected = len(samples)
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()
        self.crew = Crew()
        self.first = frozenset(samples[:SHOWN])

    @contextmanager
    def work(self, steps: int) -> Iterator[None]:
        """Around all of the work, of so many steps."""
        with running(self.writer, self.expected, self.failed), threads(1), progress("attack", steps) as self.advance:
            yield

    def missing(self, keys: Iterable[Key]) -> int:
        """How many of these records are still to be made."""
        return sum(key not in self.writer.done for key in keys)

    def add(self, *records: Record) -> None:
        """Write those that are not there yet: a chunk that was done in part is done again as a whole."""
        with self.lock:
            for record in records:
                if key_of(record) not in self.writer.done:
                    self.writer.append(record)
                    self.advance()

    def fail(self, example: Example, error: str, records: int = 1) -> None:
        """Say once that an image cannot be used, and so many records of it will not be made."""
        with self.lock:
            if example.id not in self.failed:
                self.failed[example.id] = error
                self.writer.append({"sample_id": example.id, "path": example.path, "error": error})
            for _ in range(records):
                self.advance()

    def shows(self, fields: Record) -> bool:
        """Whether pictures of this image under attack are kept."""
        return fields["sample_id"] in self.first and kept(self.images, fields)
