"""Word swaps in a text, guided by what its features should do (BERT-Attack: Li et al., EMNLP 2020, arXiv 2004.09984).

Swaps that keep a medical text's meaning and swaps that change it are two threats, and are never mixed unless asked.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from titer.attacks.losses import divergence
from titer.errors import InputError, PictureError, unknown
from titer.models.encoder import TextTower
from titer.models.weights import fingerprint_of
from titer.registry import Registry

Objective = Callable[[Tensor], Tensor]
"""Unit features of texts (texts, dim) -> what a swap raises (texts,)."""


class Reader(Protocol):
    """What reads the texts: an encoder, or a model that answers questions about one image."""

    @property
    def text_tower(self) -> TextTower:
        """Which may say how many tokens it takes."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features (texts, dim), or logits: their softmax says what a text is taken for."""


Meaning = Literal["preserving", "changing", "unjudged"]
"""What a swap does to the text's meaning; ``unjudged`` where no list names the pair."""
Wanted = Literal["preserving", "changing", "any"]

UNKNOWN = "[UNK]"
"""Stands for a word that is left out, where the text tower's tokenizer has no token for that."""
SYNONYMS = Path(__file__).parent / "medical_words.toml"
"""The package's own list of words."""

_WORD = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*")
_SECTIONS = ("preserving", "changing", "stop", "protected")


class Place(NamedTuple):
    """A word or phrase of a text: where it begins, where it ends, and how it is written."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Change:
    """One swap.

    Args:
        start: of the word, in characters of the text before any swap.
        word: as it was written.
        replacement: what stands there now.
        meaning: what the list of words says of this pair.
    """

    start: int
    word: str
    replacement: str
    meaning: Meaning


@dataclass(frozen=True)
class Swapped:
    """A text after an attack, and the swaps that made it."""

    text: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, eq=False)
class Lexicon:
    """What is known of words, all in lower case.

    Args:
        preserving: word or phrase -> those that may stand for it.
        changing: word or phrase -> those that make another statement in its place.
        protected: negation, laterality, numbers and units: a text with another one of them says something else.
        stop: words that say little of a picture.
    """

    preserving: Mapping[str, tuple[str, ...]]
    changing: Mapping[str, tuple[str, ...]]
    protected: frozenset[str]
    stop: frozenset[str]

    def protects(self, words: str) -> bool:
        """Whether a word or phrase holds a protected word, a part of a hyphenated one included, or a digit."""
        parts = re.findall(r"[^\W_]+", words.lower())
        return any(part in self.protected or any(sign.isdigit() for sign in part) for part in parts)

    def meaning(self, word: str, replacement: str) -> Meaning:
        """What the swap does to a text's meaning."""
        old, new = word.lower(), replacement.lower()
        if self.protects(old) or self.protects(new) or new in self.changing.get(old, ()):
            return "changing"
        return "preserving" if new in self.preserving.get(old, ()) else "unjudged"


@runtime_checkable
class Source(Protocol):
    """Where words that could stand for a word come from: a frozen dataclass whose fields are its settings."""

    @property
    def lexicon(self) -> Lexicon:
        """What judges its swaps."""

    def places(self, text: str) -> list[Place]:
        """The words and phrases of a text that may be swapped, in order; they do not overlap."""

    def candidates(self, text: str, places: Sequence[Place], count: int) -> list[list[str]]:
        """For each place the words that could stand there, best first; of a ranked source at most ``count``."""

    def fingerprint(self) -> str:
        """SHA-256 of all that decides its candidates beside its settings."""


@dataclass(frozen=True)
class SynonymTable:
    """A table of words and phrases, for work offline: groups that keep the meaning, and groups that change it.

    Args:
        path: a TOML file with ``preserving`` and ``changing`` (lists of groups of words), and, if there is more to add
            to the package's own, ``stop`` (a list) and ``protected`` (a table of lists); the package's own table where None.
    """

    path: str | None = None

    @property
    def lexicon(self) -> Lexicon:
        """The table.

        Raises:
            InputError: if it cannot be read, or a preserving group holds a protected word.
        """
        return _lexicon(self.path or str(SYNONYMS))

    def places(self, text: str) -> list[Place]:
        """The phrases of the table that stand in the text, the longest first where two begin alike."""
        return [Place(found.start(), found.end(), found[0]) for found in _phrases(self.lexicon).finditer(text)]

    def candidates(self, text: str, places: Sequence[Place], count: int) -> list[list[str]]:
        """Each place's groups: those that keep the meaning, then those that change it, in the table's order."""
        del text, count
        lexicon = self.lexicon
        return [
            [*lexicon.preserving.get(key, ()), *lexicon.changing.get(key, ())]
            for key in (place.text.lower() for place in places)
        ]

    def fingerprint(self) -> str:
        """SHA-256 of the file, and of the package's own table."""
        texts = (_read(path) for path in dict.fromkeys((str(SYNONYMS), self.path or str(SYNONYMS))))
        return hashlib.sha256("\x00".join(texts).encode()).hexdigest()


@dataclass(frozen=True)
class MaskedLanguageModel:
    """The likeliest words at each position, by a masked language model that reads the text as it is.

    A word of several pieces gets the candidates of all its pieces, by falling score (BERT-Attack instead tries
    combinations of pieces). Sub-word pieces, stop words and the word itself are no candidates; words beyond what the
    model reads have none.

    Args:
        path: a directory in Hugging Face layout.
        threshold: lowest score (logit) of a candidate.
        parity: take the candidates of the token before the word, as the code of Co-Attack and SGA does by an error in
            its index; only to compare with its figures.
    """

    path: str
    threshold: float = 0.3
    parity: bool = False

    @property
    def lexicon(self) -> Lexicon:
        """The package's own table judges what the model proposes."""
        return _lexicon(str(SYNONYMS))

    def places(self, text: str) -> list[Place]:
        """The words of the text but for stop words."""
        words = (Place(found.start(), found.end(), found[0]) for found in _WORD.finditer(text))
        return [place for place in words if place.text.lower() not in self.lexicon.stop]

    def candidates(self, text: str, places: Sequence[Place], count: int) -> list[list[str]]:
        """The ``count`` likeliest words at each place."""
        model = _masked_language_model(self.path)
        spans, logits = model.read(text)
        scores, ids = logits.topk(min(count, logits.shape[1]), dim=1)
        found = []
        for place in places:
            rows = [row for row, (start, end) in enumerate(spans) if start < place.end and end > place.start]
            if self.parity:
                rows = [row - 1 for row in rows]
            ranked = sorted(
                (
                    (-score, token)
                    for row in rows
                    for score, token in zip(scores[row].tolist(), ids[row].tolist(), strict=True)
                    if score >= self.threshold
                ),
            )
            words = dict.fromkeys(word for _, token in ranked if (word := model.words.get(token)) is not None)
            kept = [word for word in words if word.lower() not in self.lexicon.stop | {place.text.lower()}]
            found.append(kept[:count])
        return found

    def surprisals(self, text: str) -> list[float]:
        """Surprisal of each token of the text in bits, the token itself masked; of what the model reads of it."""
        return _masked_language_model(self.path).surprisals(text)

    def fingerprint(self) -> str:
        """SHA-256 of the model's weights and tokenizer."""
        return _masked_language_model(self.path).fingerprint


SOURCES: Registry[Source] = Registry(
    "word source",
    "titer.word_sources",
    {"masked-language-model": MaskedLanguageModel, "synonyms": SynonymTable},
)


@dataclass(frozen=True)
class WordSwap:
    """Swaps words by falling importance, until enough of them are changed.

    A word's importance is how far the softmax of the text's features moves (KL) when the tokenizer's unknown word
    stands in its place. The best candidate of a word is taken if it raises the objective above what it was.

    Args:
        source: of the candidates.
        meaning: ``preserving`` leaves protected words (negation, laterality, numbers, units) alone and takes no
            candidate that is known to change the meaning; of a table, then, only its preserving groups. ``changing``
            takes only those that do. ``any`` takes both, as published code does; each swap says which it is.
        count: most candidates for a word.
        changes: most words swapped.
    """

    source: Source = SynonymTable()
    meaning: Wanted = "preserving"
    count: int = 10
    changes: int = 1

    def __post_init__(self) -> None:
        if self.meaning not in get_args(Wanted):
            raise unknown("meaning", self.meaning, get_args(Wanted))
        for name in ("count", "changes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def __call__(self, encoder: Reader, text: str, objective: Objective) -> Swapped:
        """The text with its swaps; no swap where none raises the objective.

        Args:
            encoder: whose text tower is attacked.
            text: that its text tower takes whole.
            objective: what is raised; it is asked once for each word and once for all of a word's candidates.
        """
        options = self.options(text)
        highest = float(_scores(encoder, [text], objective)[0])
        taken: dict[Place, str] = {}
        for place in self._by_importance(encoder, text, list(options)):
            tries = [
                (candidate, changed)
                for candidate in options[place]
                if fits(encoder, changed := rewritten(text, {**taken, place: candidate}))
            ]
            if not tries:
                continue
            scores = _scores(encoder, [changed for _, changed in tries], objective)
            best = int(scores.argmax())
            if float(scores[best]) > highest:
                highest, taken[place] = float(scores[best]), tries[best][0]
            if len(taken) == self.changes:
                break
        lexicon = self.source.lexicon
        changes = (
            Change(place.start, place.text, new, lexicon.meaning(place.text, new)) for place, new in taken.items()
        )
        return Swapped(rewritten(text, taken), tuple(sorted(changes, key=lambda change: change.start)))

    def options(self, text: str) -> dict[Place, list[str]]:
        """The candidates that the setting allows, for each place that has any."""
        places = self.source.places(text)
        proposed = self.source.candidates(text, places, self.count)
        options = {
            place: list(dict.fromkeys(_written_like(word, place.text) for word in words if self._wants(place, word)))
            for place, words in zip(places, proposed, strict=True)
        }
        return {place: words[: self.count] for place, words in options.items() if words}

    def _wants(self, place: Place, word: str) -> bool:
        if word.lower() == place.text.lower():
            return False
        meaning = self.source.lexicon.meaning(place.text, word)
        return self.meaning == "any" or (meaning == "changing") == (self.meaning == "changing")

    def _by_importance(self, encoder: Reader, text: str, places: Sequence[Place]) -> list[Place]:
        if not places:
            return []
        left_out = unknown_word(encoder)
        masked = [cut(encoder, rewritten(text, {place: left_out})) for place in places]
        features = encoder.encode_text([text, *masked])
        moved = divergence(features[1:], features[:1].expand(len(masked), -1))
        return [places[row] for row in moved.argsort(descending=True, stable=True).tolist()]


SWAPS: Registry[WordSwap] = Registry("word swap", "titer.word_swaps", {"bert-attack": WordSwap})


def build_swap(**settings: Any) -> WordSwap:
    """A word swap from settings as they are typed: ``source`` is a name, or a table with a ``name`` and its settings.

    Raises:
        InputError: for unknown names and settings.
    """
    source = settings.pop("source", None)
    if isinstance(source, Source) or source is None:
        return SWAPS.build("bert-attack", **settings, **({} if source is None else {"source": source}))
    table = dict(source) if isinstance(source, Mapping) else {"name": source}
    if "name" not in table:
        raise InputError(
            f"swap.source: expected a name beside {', '.join(table) or 'nothing'}, one of {', '.join(SOURCES)}"
        )
    return SWAPS.build("bert-attack", **settings, source=SOURCES.build(str(table.pop("name")), **table))


def rewritten(text: str, swaps: Mapping[Place, str]) -> str:
    """The text with other words at some places."""
    parts, end = [], 0
    for place in sorted(swaps):
        parts += [text[end : place.start], swaps[place]]
        end = place.end
    return "".join([*parts, text[end:]])


@runtime_checkable
class Tokenising(Protocol):
    """A text tower that says how many tokens it takes."""

    length: int

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, special tokens included."""


def tokens(encoder: Reader, text: str) -> int | None:
    """How many tokens a text has for the encoder's text tower; None where the tower does not tell."""
    tower = _tokenising(encoder)
    return None if tower is None else len(tower.ids(text))


def fits(encoder: Reader, text: str) -> bool:
    """Whether the text tower takes the whole text."""
    tower = _tokenising(encoder)
    return tower is None or len(tower.ids(text)) <= tower.length


def cut(encoder: Reader, text: str) -> str:
    """As many whole words of the text, from its beginning, as the text tower takes.

    Raises:
        PictureError: if it does not even take the first word.
    """
    if fits(encoder, text):
        return text
    ends = [found.end() for found in re.finditer(r"\S+", text)]
    kept = bisect.bisect_left(ends, True, key=lambda end: not fits(encoder, text[:end]))
    if not kept:
        raise PictureError(f"the text tower does not take the caption's first word: {text[:60]!r}...")
    return text[: ends[kept - 1]]


def unknown_word(encoder: Reader) -> str:
    """What stands for a word that is left out."""
    return str(getattr(encoder.text_tower, "unknown", UNKNOWN))


def _tokenising(encoder: Reader) -> Tokenising | None:
    tower: object = encoder.text_tower
    return tower if isinstance(tower, Tokenising) else None


def _scores(encoder: Reader, texts: Sequence[str], objective: Objective) -> Tensor:
    with torch.no_grad():
        return objective(encoder.encode_text(texts))


def _written_like(word: str, original: str) -> str:
    """With a capital where the original begins with one and is no abbreviation."""
    return word[:1].upper() + word[1:] if original[:1].isupper() and not original[1:2].isupper() else word


@lru_cache(maxsize=8)
def _lexicon(path: str) -> Lexicon:
    own, table = _parsed(str(SYNONYMS)), _parsed(path)
    protected = {word for part in (own, table) for words in part.get("protected", {}).values() for word in words}
    found = Lexicon(
        preserving=_neighbours(table.get("preserving", ())),
        changing=_neighbours(table.get("changing", ())),
        protected=frozenset(protected),
        stop=frozenset([*own["stop"], *table.get("stop", ())]),
    )
    for word in found.preserving:
        if found.protects(word):
            raise InputError(
                f"{path}: {word!r} is protected, so no swap of it keeps the meaning; expected it elsewhere"
            )
    return found


def _parsed(path: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    for name in table:
        if name not in _SECTIONS:
            raise unknown(f"section in {path}:", name, _SECTIONS)
    groups = [*table.get("preserving", ()), *table.get("changing", ())]
    for group in groups:
        if not isinstance(group, list) or len(group) < 2 or not all(isinstance(word, str) for word in group):
            raise InputError(f"{path}: expected groups of two or more words, got {group!r}")
    return table


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no readable table of words (TOML in UTF-8): {error}") from error


def _neighbours(groups: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for group in groups:
        lower = [word.lower() for word in group]
        for word in lower:
            found.setdefault(word, {}).update(dict.fromkeys(other for other in lower if other != word))
    return {word: tuple(others) for word, others in found.items()}


@lru_cache(maxsize=8)
def _phrases(lexicon: Lexicon) -> re.Pattern[str]:
    known = sorted({*lexicon.preserving, *lexicon.changing}, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, known))})(?![\w-])", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class _Model:
    """A masked language model, its tokenizer, and its whole words by token id."""

    network: Any
    tokenizer: Any
    words: Mapping[int, str]
    length: int
    fingerprint: str

    def read(self, text: str) -> tuple[list[tuple[int, int]], Tensor]:
        """Where each token stands in the text (empty for special ones), and its logits (tokens, vocabulary)."""
        ids, spans = self._tokens(text)
        with torch.no_grad():
            logits: Tensor = self.network(input_ids=torch.tensor([ids])).logits[0]
        return spans, logits.float()

    def surprisals(self, text: str) -> list[float]:
        """Surprisal of each token in bits, but for special ones: what the model gives it where it is masked."""
        ids, spans = self._tokens(text)
        places = [place for place, (start, end) in enumerate(spans) if end > start]
        if not places:
            return []
        masked = torch.tensor([ids]).repeat(len(places), 1)
        rows = torch.arange(len(places))
        masked[rows, places] = self.tokenizer.mask_token_id
        with torch.no_grad():
            logits: Tensor = self.network(input_ids=masked).logits[rows, places].float()
        shares = logits.log_softmax(dim=1)[rows, torch.tensor([ids[place] for place in places])]
        return [float(bits) for bits in -shares / math.log(2)]

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        ids, spans = list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]
        if len(ids) > self.length:  # the last token closes the text
            return [*ids[: self.length - 1], ids[-1]], [*spans[: self.length - 1], spans[-1]]
        return ids, spans


@lru_cache(maxsize=2)
def _masked_language_model(path: str) -> _Model:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    offer = "expected a local directory in Hugging Face layout; --set swap.source=synonyms works without a model"
    if not (Path(path) / "config.json").is_file():
        raise InputError(f"no masked language model at {path}: {offer}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        network, loaded = AutoModelForMaskedLM.from_pretrained(path, local_files_only=True, output_loading_info=True)
    except Exception as error:  # transformers raises classes of many libraries
        raise InputError(f"the masked language model at {path} cannot be used ({_line(error)}): {offer}") from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise InputError(f"{path}: {len(missing)} tensors are missing, such as {missing[0]}: {offer}")
    return _Model(
        network=network.eval().requires_grad_(False),
        tokenizer=tokenizer,
        words=_whole_words(tokenizer),
        # RoBERTa's positions begin behind that of padding
        length=min(tokenizer.model_max_length, network.config.max_position_embeddings - 2),
        fingerprint=fingerprint_of(network.state_dict(), tokenizer.backend_tokenizer.to_str()),
    )


def _whole_words(tokenizer: Any) -> dict[int, str]:
    """Tokens that begin a word and hold nothing else; what marks a beginning or an inner piece depends on the tokenizer."""
    vocabulary = tokenizer.get_vocab()
    mark = next((mark for mark in ("Ġ", "▁") if any(token.startswith(mark) for token in vocabulary)), "")
    bare = {
        place: token.removeprefix(mark)
        for token, place in vocabulary.items()
        if token.startswith(mark) and place not in tokenizer.all_special_ids
    }
    return {place: word for place, word in bare.items() if _WORD.fullmatch(word)}


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
