"""LoRA against PEFT itself, against arithmetic by hand, and everything that can be wrong with it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel

import titer
from images import brightness_encoder, folder
from published_files import biomed_directory, conch_directory, open_clip_directory
from tiny_models import clip_directory, siglip_directory
from titer.data.example import ClassText
from titer.defenses.adapter import WEIGHTS, load_classifier
from titer.defenses.lora import Lora, noisy_copies
from titer.defenses.task import Fitted, Task
from titer.errors import InputError
from titer.evaluate.fitting import fit
from titer.features.stream import threads
from titer.models import Classifier, Encoder, load_model, zero_shot
from titer.models.towers import vision_tower
from titer.noise import BLOCK, NoiseStream

CLASSES = (ClassText("dark", ("a dark picture",)), ClassText("bright", ("a bright picture",)))
QUERY = "encoder.layers.0.self_attn.q_proj"
QUICK = Lora(epochs=1, learning_rate=0.01)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_directory(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(directory: Path) -> Encoder:
    return load_model(directory)


@pytest.fixture(scope="module")
def fitted(encoder: Encoder) -> Fitted:
    return learn(QUICK, task(encoder))


def task(encoder: Encoder, seed: int = 0, images: int = 6) -> Task:
    """Plain pictures, dark and bright in turns."""
    pictures = [torch.full((3, encoder.size, encoder.size), 0.3 + 0.4 * (place % 2)) for place in range(images)]
    ids = [f"{place}.png" for place in range(images)]
    return Task(encoder, CLASSES, ids, [place % 2 for place in range(images)], pictures.__getitem__, seed)


def learn(defense: Lora, of: Task) -> Fitted:
    with threads(1):
        return defense.fit(of)


def random_images(encoder: Encoder) -> Tensor:
    return torch.rand(4, 3, encoder.size, encoder.size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("make", "classes"),
    [
        (clip_directory, CLASSES),
        (siglip_directory, CLASSES[::-1]),
        (open_clip_directory, CLASSES),
        (biomed_directory, CLASSES[::-1]),
        (conch_directory, CLASSES),
    ],
    ids=["clip", "siglip", "open_clip", "open_clip with timm's ViT", "conch"],
)
def test_it_learns_to_tell_noisy_pictures_apart_that_it_could_not(
    make: Callable[[Path], Path], classes: tuple[ClassText, ...], tmp_path: Path
) -> None:
    encoder = load_model(make(tmp_path))
    pictures = replace(task(encoder), classes=classes)
    learned = learn(Lora(epochs=8, learning_rate=0.01, sigmas=(0.25, 0.5)), pictures)
    copies, labels = noisy_copies(replace(pictures, seed=1), (0.25, 0.5))(0)

    def share(classifier: Classifier) -> float:
        return float((classifier(copies).argmax(dim=1) == labels).float().mean())

    assert share(zero_shot(encoder, classes)) < 0.6
    assert share(Lora().classifier(encoder, classes, learned.weights, "lora")) > 0.95
    assert learned.losses[-1] < learned.losses[0] - 0.05


def test_what_it_notes_lets_a_collapse_be_found(fitted: Fitted) -> None:
    assert fitted.notes == {"objective": "cross-entropy"}
    assert fitted.predictions is not None
    assert fitted.predictions.shape == (BLOCK,)
    assert len(fitted.losses) == 1


def test_the_merged_layer_is_the_layer_plus_the_scaled_product(encoder: Encoder, fitted: Fitted) -> None:
    tuned = QUICK.classifier(encoder, CLASSES, fitted.weights, "lora").encoder
    before, after = (vision_tower(each).vision.state_dict() for each in (encoder, tuned))
    first, second = (fitted.weights[f"base_model.model.{QUERY}.lora_{part}.weight"].double() for part in "AB")
    assert first.shape == (8, 16)
    expected = before[f"{QUERY}.weight"].double() + 16 / 8 * second @ first
    assert torch.allclose(after[f"{QUERY}.weight"].double(), expected, atol=1e-6)
    assert not torch.equal(after[f"{QUERY}.weight"], before[f"{QUERY}.weight"])
    assert before.keys() == after.keys()  # nothing is left beside the layers: a vote costs what it did
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj"}


def test_with_the_second_factor_at_zero_nothing_changes(encoder: Encoder, fitted: Fitted) -> None:
    start = {name: weight * ("lora_A" in name) for name, weight in fitted.weights.items()}
    tuned = QUICK.classifier(encoder, CLASSES, start, "lora")
    assert torch.equal(tuned(random_images(encoder)), zero_shot(encoder, CLASSES)(random_images(encoder)))


def test_the_given_encoder_stays_as_it_was(directory: Path) -> None:
    encoder = load_model(directory)
    before = encoder.encode_image(random_images(encoder))
    names = set(vision_tower(encoder).vision.state_dict())
    learned = learn(QUICK, task(encoder))
    tuned = QUICK.classifier(encoder, CLASSES, learned.weights, "lora").encoder
    assert torch.equal(encoder.encode_image(random_images(encoder)), before)
    assert set(vision_tower(encoder).vision.state_dict()) == names
    assert tuned.text_tower is encoder.text_tower
    assert tuned.fingerprint != encoder.fingerprint
    assert not any(weight.requires_grad for weight in vision_tower(tuned).vision.parameters())


def test_a_fit_depends_on_its_seed_and_on_nothing_else(encoder: Encoder, fitted: Fitted) -> None:
    state = torch.random.get_rng_state()
    again, other = learn(QUICK, task(encoder)), learn(QUICK, task(encoder, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.losses == fitted.losses
    assert all(torch.equal(again.weights[name], fitted.weights[name]) for name in fitted.weights)
    assert not any(torch.equal(other.weights[name], fitted.weights[name]) for name in fitted.weights)


def test_peft_reads_the_directory_and_computes_the_same(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    fit(QUICK, str(directory), folder(tmp_path / "data", split="train"), out=out, shots=2)
    encoder = load_model(directory)
    tuned = load_classifier(out, encoder, titer.load_data(tmp_path / "data", split="train"), allow=("overlap",))
    reference = CLIPModel.from_pretrained(directory).eval()
    with pytest.warns(UserWarning, match=r"\['titer'\]"):  # PEFT names the key that is ours, and leaves it
        reference.vision_model = PeftModel.from_pretrained(reference.vision_model, out).eval()
    images = random_images(encoder)
    with torch.no_grad():
        expected = reference.get_image_features(pixel_values=encoder.preprocess.normalise(images)).pooler_output
    found = tuned.encoder.encode_image(images)
    assert torch.allclose(found, F.normalize(expected, dim=-1), atol=1e-5)
    assert not torch.allclose(found, encoder.encode_image(images), atol=1e-3)


def test_a_run_takes_it_beside_zero_shot_and_tells_them_apart(directory: Path, tmp_path: Path) -> None:
    fit(QUICK, str(directory), folder(tmp_path / "train", split="train"), out=tmp_path / "tuned", shots=2)
    run = titer.certify(
        str(directory), folder(tmp_path / "test"), sigma=0.25, out=tmp_path / "run", certifier="gaussian", n=50, n0=50,
        prompts=("zero-shot", str(tmp_path / "tuned")), allow=("overlap",), seed=0, limit=2,
    )  # fmt: skip
    assert Counter((record["prompts"], record["guarantee"]) for record in run.records) == {
        ("zero-shot", "fixed"): 2,
        ("tuned", "fixed"): 2,
    }
    prints = run.info["prompts"]
    assert ("+" in prints["tuned"], "+" in prints["zero-shot"]) == (True, False)  # an encoder of its own


def test_it_moves_to_other_classes_when_asked(directory: Path, tmp_path: Path) -> None:
    fit(QUICK, str(directory), folder(tmp_path / "data", split="train"), out=tmp_path / "tuned", shots=2)
    encoder = load_model(directory)
    for label in ("grey", "red", "white"):
        (tmp_path / "other/test" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), label).save(tmp_path / "other/test" / label / "0.png")
    other = titer.load_data(tmp_path / "other")
    with pytest.raises(InputError, match="--new-classes"):
        load_classifier(tmp_path / "tuned", encoder, other)
    moved = load_classifier(tmp_path / "tuned", encoder, other, new_classes=True)
    assert moved.classes == ("grey", "red", "white")
    assert moved.sigmas == (0.1, 1.0)


def test_copies_hold_the_streams_own_noise_and_no_draw_twice(encoder: Encoder) -> None:
    sigmas = (0.25, 0.5)
    pictures = task(encoder, seed=5)
    copies, labels = noisy_copies(pictures, sigmas)(3)
    noise = torch.from_numpy(NoiseStream(5, "fit").block("\x00lora", 3, (3, encoder.size, encoder.size)))
    shown = torch.stack([pictures.image(int(label)) for label in labels])
    scale = (copies - shown).flatten(1).std(dim=1, keepdim=True).view(-1, 1, 1, 1)
    used = torch.where(scale < 0.375, 0.25, 0.5)
    assert torch.allclose(copies, shown + used * noise, atol=1e-6)
    assert set(used.flatten().tolist()) == set(sigmas)


def test_half_precision_is_tuned_in_float32_and_merged(directory: Path) -> None:
    encoder = load_model(directory, dtype="bfloat16")
    learned = learn(QUICK, task(encoder))
    assert {weight.dtype for weight in learned.weights.values()} == {torch.float32}
    tuned = QUICK.classifier(encoder, CLASSES, learned.weights, "lora").encoder
    assert {weight.dtype for weight in vision_tower(tuned).vision.parameters()} == {torch.bfloat16}
    images = random_images(encoder)
    assert not torch.allclose(tuned.encode_image(images), encoder.encode_image(images), atol=0.02)


@pytest.mark.parametrize("images", [1, 7, 64])
def test_images_take_turns_and_so_do_their_sigmas(encoder: Encoder, images: int) -> None:
    block = noisy_copies(_numbered(encoder, images), (0.0, 1e-4))
    rows = torch.cat([block(step)[0] for step in range(13)])[: images * 10]
    places = (rows.mean(dim=(1, 2, 3)) * 100).round().int().tolist()
    assert set(Counter(places).values()) == {10}
    assert all(len(set(places[turn * images : (turn + 1) * images])) == images for turn in range(10))
    noisy = (rows.flatten(1).std(dim=1) > 1e-5).tolist()
    assert set(Counter(place for place, is_noisy in zip(places, noisy, strict=True) if is_noisy).values()) == {5}


def _numbered(encoder: Encoder, images: int) -> Task:
    def picture(place: int) -> Tensor:
        return torch.full((3, encoder.size, encoder.size), place / 100)

    return Task(encoder, CLASSES, [str(place) for place in range(images)], [0] * images, picture, seed=2)


def test_clean_training_sees_the_pictures_themselves(encoder: Encoder) -> None:
    clean = Lora(images="clean")
    assert clean.noise == ()
    copies, labels = noisy_copies(task(encoder), clean.noise or (0.0,))(0)
    assert np.array_equal(copies.mean(dim=(1, 2, 3)) > 0.5, labels == 1)
    assert copies.flatten(1).std(dim=1).max() < 1e-6


def test_a_tower_that_hides_its_layers_is_refused() -> None:
    with pytest.raises(InputError, match="brightness: its image encoder hides its layers"):
        Lora().fit(task(brightness_encoder()))


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"'query'.*fc1, fc2, k_proj, out_proj, q_proj, v_proj"):
        Lora(targets=("q_proj", "query")).fit(task(encoder))


def test_without_peft_the_error_says_what_to_install(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"pip install 'titer\[lora\]'"):
        Lora().fit(task(encoder))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"rank": 0}, "rank: expected at least 1, got 0"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"alpha": 0.0}, "alpha: expected above 0, got 0"),
        ({"learning_rate": -1.0}, "learning_rate: expected above 0, got -1"),
        ({"sigmas": ()}, "sigmas: expected one or more numbers"),
        ({"sigmas": (0.1, -0.1)}, "sigmas: expected one or more numbers of at least 0"),
        ({"targets": ()}, "targets: expected a list of layers"),
        ({"targets": "q_proj"}, "targets: expected a list of layers.*'q_proj'"),
        ({"images": "noise"}, "did you mean 'noisy'"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Lora(**setting)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("damage", "said"),
    [("missing", r"q_proj\.lora_A"), ("odd", "odd has no place"), ("shape", "size mismatch|Error.* in loading")],
)
def test_an_adapter_with_other_tensors_is_refused(directory: Path, tmp_path: Path, damage: str, said: str) -> None:
    out, data = tmp_path / "tuned", folder(tmp_path / "data", split="train")
    fit(QUICK, str(directory), data, out=out, shots=2)
    weights = load_file(out / WEIGHTS)
    name = f"base_model.model.{QUERY}.lora_A.weight"
    first = weights.pop(name)
    added = {"missing": {}, "odd": {name: first, "odd": first.clone()}, "shape": {name: torch.zeros(4, 16)}}
    save_file(weights | added[damage], out / WEIGHTS)
    with pytest.raises(InputError, match=f"its tensors do not fit.*({said})"):
        load_classifier(out, load_model(directory), titer.load_data(data, split="train"), allow=("overlap",))
