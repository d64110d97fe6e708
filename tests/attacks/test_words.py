"""Word swaps: the best one where it is known by hand, what must not be touched, and where candidates come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import titer
from titer.attacks.words import (
    SYNONYMS,
    MaskedLanguageModel,
    Place,
    SynonymTable,
    WordSwap,
    build_swap,
    cut,
    fits,
    rewritten,
    tokens,
)
from titer.errors import InputError, PictureError
from titer.models import Encoder

VECTORS = {"mass": (2.0, 0.0, 0.0), "lump": (2.0, 1.0, 0.0), "node": (2.0, 3.0, 0.0), "large": (0.1, 0.0, 0.0),
           "big": (0.1, 9.0, 0.0), "benign": (0.0, 0.0, 1.0), "malignant": (0.0, 2.0, 1.0)}  # fmt: skip
TABLE = 'preserving = [["mass", "lump", "node"], ["large", "big"]]\nchanging = [["benign", "malignant"]]\n'


def encode_words(texts: Sequence[str]) -> Tensor:
    """Each word adds its vector; others add nothing."""
    nothing = (0.0, 0.0, 0.0)
    rows = [[VECTORS.get(word.strip(".,"), nothing) for word in text.lower().split()] for text in texts]
    return torch.stack([torch.tensor([0.0, 0.0, 0.5]) + torch.tensor([nothing, *row]).sum(dim=0) for row in rows])


def toy() -> Encoder:
    half = (0.5, 0.5, 0.5)
    return titer.wrap(lambda images: images.mean(dim=(2, 3)), encode_words, 4, half, half, fingerprint="toy")


def second(features: Tensor) -> Tensor:
    return features[:, 1]


@pytest.fixture
def table(tmp_path: Path) -> SynonymTable:
    (tmp_path / "words.toml").write_text(TABLE)
    return SynonymTable(str(tmp_path / "words.toml"))


def test_the_candidate_that_raises_the_objective_most_is_taken(table: SynonymTable) -> None:
    swapped = WordSwap(table)(toy(), "A mass.", second)
    assert swapped.text == "A node."
    (change,) = swapped.changes
    assert (change.start, change.word, change.replacement, change.meaning) == (2, "mass", "node", "preserving")


def test_the_most_important_word_comes_first_even_if_another_would_gain_more(table: SynonymTable) -> None:
    assert WordSwap(table)(toy(), "A large mass", second).text == "A large node"
    assert WordSwap(table, changes=2)(toy(), "A large mass", second).text == "A big node"


def test_nothing_is_swapped_where_nothing_gains(table: SynonymTable) -> None:
    swapped = WordSwap(table)(toy(), "a node", second)
    assert (swapped.text, swapped.changes) == ("a node", ())


def test_meanings_are_kept_apart(table: SynonymTable) -> None:
    text = "benign mass"
    assert WordSwap(table, meaning="preserving")(toy(), text, second).text == "benign node"
    changed = WordSwap(table, meaning="changing")(toy(), text, second)
    assert changed.text == "malignant mass"
    assert changed.changes[0].meaning == "changing"
    both = WordSwap(table, meaning="any", changes=2)(toy(), text, second)
    assert {change.meaning for change in both.changes} == {"preserving", "changing"}


@pytest.mark.parametrize(
    "word", ["no", "Without", "left", "right-sided", "three", "12", "3.5cm", "IV", "non-calcified"]
)
def test_negation_laterality_and_numbers_are_protected(word: str) -> None:
    assert SynonymTable().lexicon.protects(word)
    assert SynonymTable().lexicon.meaning(word, "thing") == "changing"


def test_protected_words_are_left_alone_where_the_meaning_has_to_stay() -> None:
    options = WordSwap().options("No mass in the left lung, one nodule of 3 cm with edema")
    assert {place.text for place in options} == {"mass", "lung", "nodule", "edema"}
    lexicon = SynonymTable().lexicon
    assert not any(lexicon.protects(word) for words in options.values() for word in words)


def test_the_own_table_never_says_both_of_one_pair() -> None:
    lexicon = SynonymTable().lexicon
    assert not [
        (word, other)
        for word, others in lexicon.preserving.items()
        for other in others
        if other in lexicon.changing.get(word, ())
    ]
    assert SYNONYMS.is_file()


def test_the_longest_phrase_is_swapped_as_one() -> None:
    places = SynonymTable().places("Two white blood cells")
    assert "white blood cells" in [place.text for place in places]


def test_a_table_that_swaps_a_protected_word_as_harmless_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('preserving = [["left", "sinister"]]')
    with pytest.raises(InputError, match="'left' is protected"):
        WordSwap(SynonymTable(str(tmp_path / "bad.toml")))(toy(), "left", second)


@pytest.mark.parametrize(
    ("content", "words"),
    [("preserving = 3 3", "not valid TOML"), ("synonyms = []", "section"), ('changing = [["one"]]', "two or more")],
)
def test_a_broken_table_is_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(InputError, match=words):
        SynonymTable(str(tmp_path / "bad.toml")).places("text")


def test_settings_as_they_are_typed(table: SynonymTable) -> None:
    typed = {"name": "synonyms", "path": table.path}
    assert build_swap(source=typed, meaning="any") == WordSwap(table, meaning="any")
    assert build_swap(source="synonyms") == WordSwap()
    with pytest.raises(InputError, match="did you mean 'meaning'"):
        build_swap(meanning="any")
    with pytest.raises(InputError, match="unknown meaning"):
        build_swap(meaning="both")
    for given in ("path", "model"):
        with pytest.raises(InputError, match=f"expected a name beside {given}, one of masked-language-model, synonyms"):
            build_swap(source={given: "/nowhere"})


def test_rewriting_keeps_everything_else() -> None:
    assert rewritten("a b  c", {Place(0, 1, "a"): "xx", Place(5, 6, "c"): "y"}) == "xx b  y"


class Narrow:
    """A text tower that takes four words."""

    length = 4

    def ids(self, text: str) -> list[int]:
        return [0] * sum(len(word) > 20 for word in text.split()) * 9 + [0] * len(text.split())

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return encode_words(texts)


def test_a_long_caption_is_cut_at_a_word() -> None:
    encoder = replace(toy(), text_tower=Narrow())
    assert cut(encoder, "one two three four five  six") == "one two three four"
    assert cut(encoder, "one two") == "one two"
    assert (tokens(encoder, "one two"), tokens(toy(), "one two")) == (2, None)
    assert not fits(encoder, "a b c d e")
    with pytest.raises(PictureError, match="first word"):
        cut(encoder, "x" * 21)


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mass", "lump", "node", "large", "big", "the", "##s"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model with random weights."""
    path = tmp_path_factory.mktemp("bert")
    ids = {token: place for place, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=32,
    )  # fmt: skip
    fast.save_pretrained(path)
    torch.random.set_rng_state(torch.Generator().manual_seed(5).get_state())
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=34, initializer_range=1.0,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(path)
    return path


def by_hand(path: Path, row: int, word: str) -> list[str]:
    """Whole words by falling logit at one row of the model's output, the first of which is [CLS]."""
    model = BertForMaskedLM.from_pretrained(path).eval()
    ids = torch.tensor([[VOCABULARY.index(token) for token in ("[CLS]", "mass", "large", "node", "[SEP]")]])
    with torch.no_grad():
        order = model(input_ids=ids).logits[0, row].argsort(descending=True).tolist()
    return [
        VOCABULARY[token] for token in order if VOCABULARY[token] in {"mass", "lump", "node", "large", "big"} - {word}
    ]


@pytest.mark.parametrize("parity", [False, True])
def test_candidates_are_those_of_the_words_own_position(bert: Path, parity: bool) -> None:
    source = MaskedLanguageModel(str(bert), threshold=-1000.0, parity=parity)
    text = "mass large node"
    places = source.places(text)
    found = source.candidates(text, places, len(VOCABULARY))
    assert found == [by_hand(bert, place + 1 - parity, word) for place, word in enumerate(text.split())]


def test_the_off_by_one_of_published_code_makes_a_difference(bert: Path) -> None:
    text = "mass large node"
    right, wrong = (MaskedLanguageModel(str(bert), threshold=-1000.0, parity=parity) for parity in (False, True))
    assert right.candidates(text, right.places(text), 3) != wrong.candidates(text, wrong.places(text), 3)


def test_low_scores_stop_words_and_pieces_are_no_candidates(bert: Path) -> None:
    source = MaskedLanguageModel(str(bert), threshold=1000.0)
    assert source.candidates("the mass", source.places("the mass"), 12) == [[]]
    assert [place.text for place in source.places("the mass")] == ["mass"]


def test_surprisals_are_of_the_masked_token(bert: Path) -> None:
    model = BertForMaskedLM.from_pretrained(bert).eval()
    tokens = ["[CLS]", "mass", "large", "node", "[SEP]"]
    expected = []
    for place in (1, 2, 3):
        ids = [VOCABULARY.index("[MASK]" if row == place else token) for row, token in enumerate(tokens)]
        with torch.no_grad():
            shares = model(input_ids=torch.tensor([ids])).logits[0, place].softmax(dim=0)
        expected.append(-math.log2(float(shares[VOCABULARY.index(tokens[place])])))
    assert MaskedLanguageModel(str(bert)).surprisals("mass large node") == pytest.approx(expected, rel=1e-4)
    assert MaskedLanguageModel(str(bert)).surprisals("") == []


def test_a_swap_by_a_language_model_says_that_nobody_judged_it(bert: Path) -> None:
    swap = build_swap(source={"name": "masked-language-model", "path": str(bert), "threshold": -1000.0}, count=12)
    swapped = swap(toy(), "mass", second)
    assert swapped.text in ("big", "node", "lump")
    assert swapped.changes[0].meaning in ("preserving", "unjudged")
    assert len(swap.source.fingerprint()) == 64


def test_a_missing_language_model_offers_the_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"swap\.source=synonyms works without a model"):
        MaskedLanguageModel(str(tmp_path / "nowhere")).candidates("text", [], 3)
