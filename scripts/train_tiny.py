"""Train `titer:tiny`, the embedded CLIP, on the phantoms and the upstream part of real training splits.

    python scripts/train_tiny.py --data ../shared/data --out src/titer/models/tiny

Symmetric contrastive training from scratch: every text that is true of an image counts as a positive, a text that may be
true (same class, other details) counts neither way. No Gaussian noise is ever added to an image.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import binomtest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from titer.data.phantoms import CLASSES, SIZES, label_of, phantom

SIZE = 80
STORED = 112  # pixels a side at which training pictures wait for their augmentation
UPSTREAM_SHARE = 0.7
SETS = ("mednist", "brain_mri", "lung_histology", "blood_cells")
PAIRS = ("blood_smears_captions", "cxr_covid")
UNSEEN = "cxr_nih"
WEIGHTS = {
    "mednist": 0.5,
    "brain_mri": 2.2,
    "lung_histology": 2.2,
    "blood_cells": 1.5,
    "phantoms": 1.3,
    "blood_smears_captions": 1.0,
    "cxr_covid": 0.7,
}
FREE_TURNS = {"lung_histology", "blood_cells"}
MIRRORED = {"brain_mri"}
TEMPLATES = (
    "{}",
    "{}.",
    "a medical image of {}",
    "an image of {}",
    "a picture of {}",
    "this is {}",
    "a scan: {}",
    "a photo of {}, for teaching",
    "diagnosis: {}",
)
NAMES = {
    "glioma": ("glioma", "a glioma of the brain"),
    "meningioma": ("meningioma", "a meningioma of the brain"),
    "notumor": ("no tumor", "a healthy brain without a tumor"),
    "pituitary": ("pituitary tumor", "a tumor of the pituitary gland"),
    "lung_adenocarcinoma": ("lung adenocarcinoma", "adenocarcinoma of the lung"),
    "lung_benign": ("benign lung tissue", "normal lung tissue"),
    "lung_squamous_cell_carcinoma": ("lung squamous cell carcinoma", "squamous cell carcinoma of the lung"),
    "white_blood_cell": ("white blood cell", "a leukocyte"),
    "red_blood_cell": ("red blood cell", "an erythrocyte"),
    "platelet": ("platelet", "a thrombocyte"),
    "abdomen_ct": ("abdomen ct", "CT of the abdomen"),
    "breast_mri": ("breast mri", "MRI of the breast"),
    "chest_xray": ("chest xray", "radiograph of the chest"),
    "chest_ct": ("chest ct", "CT of the chest"),
    "hand_xray": ("hand xray", "radiograph of a hand"),
    "head_ct": ("head ct", "CT of the head"),
}


@dataclass(frozen=True)
class Item:
    """A training picture: where it is from, its class over all sets, and what is said of it alone."""

    source: str
    id: str
    sha256: str
    label: str
    detail: str | None
    pixels: np.ndarray  # uint8 (STORED, STORED, 3)


def is_upstream(key: str) -> bool:
    """Whether a group or id belongs to the 70 % that the model sees."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32 < UPSTREAM_SHARE


def square(picture: Image.Image, size: int) -> np.ndarray:
    """Short side to ``size``, centre crop: float32 (size, size, 3) in [0, 1]."""
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)), np.float32) / 255


def drawn(split: str, index: int) -> Image.Image:
    pixels = np.repeat(p, 3, 2) if (p := phantom(split, index).pixels).shape[2] == 1 else p
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def rows(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if row["split"] == split]


def upstream_items(data: Path) -> list[Item]:
    """Everything that the model sees."""
    items = []
    for name in (*SETS, *PAIRS):
        for row in rows(data / name, "train"):
            if not is_upstream(row["group"] or row["file_name"]):
                continue
            path = data / name / row["file_name"]
            pixels = (square(Image.open(path), STORED) * 255).round().astype(np.uint8)
            label = row["label"] if name in SETS else name
            detail = row["caption"] if name in PAIRS else None
            items.append(
                Item(name, row["file_name"], hashlib.sha256(path.read_bytes()).hexdigest(), label, detail, pixels)
            )
    for index in range(SIZES["train"]):
        if is_upstream(identifier := f"train/{index}"):
            caption = phantom("train", index).caption
            pixels = (square(drawn("train", index), STORED) * 255).round().astype(np.uint8)
            items.append(Item("phantoms", identifier, "", CLASSES[label_of(index)][0], caption, pixels))
    return items


def class_words(data: Path) -> dict[str, dict[str, str]]:
    words = {name: json.loads((data / name / "classes.json").read_text()) for name in (*SETS, UNSEEN)}
    return words | {"phantoms": dict(CLASSES)}


def make_tokenizer(corpus: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE in CLIP's manner: lower case, start and end of text."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    start, end = (tokenizer.token_to_id(token) for token in special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A {special[1]}", special_tokens=[(special[0], start), (special[1], end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[1],
        model_max_length=77,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=128, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=SIZE,
        patch_size=16,
        projection_dim=128,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128))


def augment(stored: Tensor, free: Tensor, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops, turns, light and holes; never noise. uint8 (batch, 3, STORED, STORED) -> float (batch, 3, SIZE, SIZE)."""
    batch = len(stored)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    angle = torch.where(free, uniform(-math.pi, math.pi), uniform(-0.2, 0.2))
    scale, aspect = uniform(0.62, 1.05), uniform(0.88, 1.14)
    flip = torch.where((free | mirrored) & (uniform(0, 1) < 0.5), -1.0, 1.0)
    room = (1 - scale).clamp(min=0.04)
    theta = torch.stack(
        [
            torch.stack([angle.cos() * scale * aspect * flip, -angle.sin() * scale / aspect, room * uniform(-1, 1)], 1),
            torch.stack([angle.sin() * scale * aspect * flip, angle.cos() * scale / aspect, room * uniform(-1, 1)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [batch, 3, SIZE, SIZE], align_corners=False)
    images = F.grid_sample(stored.float() / 255, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * uniform(0.75, 1.3, 1, 1, 1) + mean + uniform(-0.1, 0.1, 1, 1, 1)
    tint = torch.where(free[:, None, None, None], uniform(0.9, 1.1, 3, 1, 1), torch.ones(1))
    gamma = uniform(0.8, 1.25, 1, 1, 1)
    images = (images * tint).clamp(1e-4, 1) ** gamma
    x, y, side = uniform(0, 1, 1, 1), uniform(0, 1, 1, 1), uniform(0.0, 0.2, 1, 1)
    place = (torch.arange(SIZE) + 0.5) / SIZE
    hole = ((place[None, None, :] - x).abs() < side) & ((place[None, :, None] - y).abs() < side)
    return torch.where(hole[:, None], mean, images)


def encode_texts(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    tokens = tokenizer(list(texts), padding=True, return_tensors="pt", truncation=True)
    return F.normalize(
        model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output.float(),
        dim=-1,
    )


def encode_images(model: CLIPModel, images: Tensor) -> Tensor:
    return F.normalize(model.get_image_features(pixel_values=(images - 0.5) / 0.25).pooler_output.float(), dim=-1)


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, positive: Tensor, unclear: Tensor) -> Tensor:
    """Both directions; targets are spread evenly over all positives, unclear pairs left out."""
    logits = (scale * images @ texts.T).masked_fill(unclear, -1e4)

    def one_way(scores: Tensor, truth: Tensor) -> Tensor:
        target = truth / truth.sum(1, keepdim=True)
        return -(target * F.log_softmax(scores, 1)).sum(1).mean()

    return (one_way(logits, positive) + one_way(logits.T, positive.T)) / 2


@torch.inference_mode()
def accuracy(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    data: Path,
    words: dict[str, dict[str, str]],
    split: str,
    names: Sequence[str],
) -> dict[str, tuple[int, int]]:
    """Zero-shot (right, all) per set, with the words of classes.json alone."""
    model.eval()
    found = {}
    for name in names:
        labels = list(words[name])
        texts = encode_texts(model, tokenizer, list(words[name].values()))
        if name == "phantoms":
            pictures = [(drawn(split, index), labels[label_of(index)]) for index in range(SIZES[split])]
        else:
            pictures = [(Image.open(data / name / row["file_name"]), row["label"]) for row in rows(data / name, split)]
        images = torch.from_numpy(np.stack([square(picture, SIZE) for picture, _ in pictures])).permute(0, 3, 1, 2)
        features = torch.cat([encode_images(model, part) for part in images.split(256)])
        answers = (features @ texts.T).argmax(1).tolist()
        found[name] = (
            sum(labels[answer] == label for answer, (_, label) in zip(answers, pictures, strict=True)),
            len(pictures),
        )
    return found


def train(args: argparse.Namespace) -> None:
    began = time.time()
    generator, chooser = torch.Generator().manual_seed(args.seed), random.Random(args.seed)
    torch.random.default_generator.set_state(torch.Generator().manual_seed(args.seed).get_state())
    items, words = upstream_items(args.data), class_words(args.data)
    corpus = [item.detail for item in items if item.detail]
    said = {label: text for name in (*SETS, "phantoms") for label, text in words[name].items()}
    for label, text in said.items():
        corpus += [
            template.format(form)
            for form in (text, *NAMES.get(label, (label.replace("_", " "),)))
            for template in TEMPLATES
        ] * 10
    with (args.data / "captions_text" / "roco_captions_ccby.csv").open(encoding="utf-8") as lines:
        corpus += [row["caption"] for row in csv.DictReader(lines)]
    tokenizer = make_tokenizer(corpus)
    model = make_model(tokenizer)
    averaged = make_model(tokenizer)
    averaged.load_state_dict(model.state_dict())
    print(f"{len(items)} pictures, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)

    stored = torch.from_numpy(np.stack([item.pixels for item in items])).permute(0, 3, 1, 2)
    free = torch.tensor([item.source in FREE_TURNS for item in items])
    mirrored = torch.tensor([item.source in MIRRORED for item in items])
    chance = torch.tensor([WEIGHTS[item.source] for item in items])
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    warm = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm) / max(1, args.steps - warm))
        ),
    )
    curve = []
    for step in range(args.steps):
        model.train()
        chosen = torch.multinomial(chance, args.batch, replacement=True, generator=generator)
        picked = [items[place] for place in chosen.tolist()]
        texts = sorted({say(item, said, chooser) for item in picked}, key=str)
        positive = torch.tensor(
            [[label == item.label and detail in (None, item.detail) for label, detail, _ in texts] for item in picked]
        )
        unclear = torch.tensor([[label == item.label for label, _, _ in texts] for item in picked]) & ~positive
        images = augment(stored[chosen], free[chosen], mirrored[chosen], generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            image_features = encode_images(model, images)
            text_features = encode_texts(model, tokenizer, [text for _, _, text in texts])
        loss = contrastive_loss(image_features, text_features, model.logit_scale.exp(), positive.float(), unclear)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
            keep = min(0.998, (step + 1) / (step + 10))
            for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)
        if (step + 1) % args.check == 0 or step + 1 == args.steps:
            val = accuracy(averaged, tokenizer, args.data, words, "val", (*SETS, "phantoms"))
            line = " ".join(f"{name} {right / total:.3f}" for name, (right, total) in val.items())
            curve.append(
                {
                    "step": step + 1,
                    "loss": round(loss.item(), 4),
                    **{name: round(right / total, 4) for name, (right, total) in val.items()},
                }
            )
            print(f"step {step + 1} loss {loss.item():.3f} {time.time() - began:.0f} s | val {line}", flush=True)
            save(args.out, averaged, tokenizer)
    test = accuracy(averaged, tokenizer, args.data, words, "test", (*SETS, UNSEEN, "phantoms"))
    metrics = {
        "test": {name: _interval(*counts) for name, counts in test.items()},
        "val_curve": curve,
        "training": {
            "steps": args.steps,
            "batch": args.batch,
            "lr": args.lr,
            "seed": args.seed,
            "bf16": args.bf16,
            "minutes": round((time.time() - began) / 60, 1),
        },
        "parameters": sum(p.numel() for p in averaged.parameters()),
        "pictures": {name: sum(item.source == name for item in items) for name in WEIGHTS},
    }
    (args.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    seen = {name: {item.id: item.sha256 for item in items if item.source == name} for name in WEIGHTS}
    (args.out / "upstream.json").write_text(json.dumps(seen, indent=0) + "\n")
    print(json.dumps(metrics["test"], indent=1))


def say(item: Item, said: dict[str, str], chooser: random.Random) -> tuple[str, str | None, str]:
    """A text that is true of a picture: (class, detail it is about, text)."""
    if item.label not in said or (item.detail and chooser.random() < 0.5):
        return item.label, item.detail, str(item.detail)
    form = chooser.choice((said[item.label], said[item.label], *NAMES.get(item.label, (item.label.replace("_", " "),))))
    return item.label, None, chooser.choice(TEMPLATES).format(form)


def _interval(right: int, total: int) -> dict[str, float | int]:
    interval = binomtest(right, total).proportion_ci(method="wilson")
    return {
        "right": right,
        "total": total,
        "accuracy": round(right / total, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
    }


def save(out: Path, model: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": SIZE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": SIZE, "width": SIZE}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_convert_rgb": True,
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")


CARD = """# titer:tiny

A small CLIP in Hugging Face layout that ships with titer, so that everything runs without a download. It is a stand-in
for a real medical vision-language model in tests, demos and benchmarks. **It is not a medical device and must not be
used on patients.**

## What it is

ViT image tower ({size} x {size} pixels, patch 16, width 192, 6 layers), causal text tower (width 128, 2 layers, 77
tokens, byte-level BPE of 2,000 tokens), 128 shared features; {parameters:,} parameters, float32. Trained from scratch by
`scripts/train_tiny.py` with a symmetric contrastive loss, {steps} steps of {batch} images (AdamW, peak learning rate
{lr}, cosine, averaged weights), in {minutes} minutes on two cores that were busy with other work as well. Each class
was named in about 27 ways (nine templates around the words of `classes.json` and two shorter names).
**No Gaussian noise was ever added in training.** Augmentation: crops, turns, mirroring where the side means nothing,
light, gamma, tint of stained slides, one erased square.

## What it saw

The *upstream* part of each training split: 70 %, those with `int(sha256(group or id)[:8], 16) / 2**32 < 0.7`; for the
phantoms by id. `upstream.json` lists every picture (id and SHA-256 of the file). Validation splits chose between
settings; test splits were used once, for the table below. `cxr_nih` was left out entirely.

| set | pictures seen |
|---|---|
{pictures}

## Zero-shot accuracy on test splits

With the words of `classes.json` alone, no template; 95 % Wilson intervals over images (tiles of `lung_histology` share
slides, so its true interval is wider).

| set | right | accuracy | interval |
|---|---|---|---|
{accuracies}

`cxr_nih` is the unseen set: about chance is expected, since nothing like its question was in training.

## Attributions

* MedNIST: Dr. Bradley J. Erickson M.D., Ph.D. (Department of Radiology, Mayo Clinic), CC BY-SA 4.0.
* Brain tumour MRI: M. Nickparvar (Kaggle, declared CC0-1.0), which merges Cheng (figshare, CC BY 4.0), SARTAJ and Br35H.
* LC25000: Borkowski et al. 2019, arXiv:1912.12142; "freely available ... to be used in any way they see fit".
* BCCD (blood cells and smears): Shenggan/cosmicad, MIT.
* COVID-19 image data collection: Cohen et al. 2020, and the publications it names; 104 of its pictures from Hannover
  Medical School, Winther et al., doi:10.6084/m9.figshare.12275009, CC BY 3.0.
* ROCO figure captions (tokenizer only): PubMed Central articles under CC BY, CC0 and CC BY-SA.

Licence of the weights: `LICENSE-WEIGHTS.md`.
"""


def write_card(out: Path) -> None:
    """The model card, from the numbers in metrics.json."""
    metrics = json.loads((out / "metrics.json").read_text())
    pictures = "\n".join(f"| {name} | {count} |" for name, count in metrics["pictures"].items())
    accuracies = "\n".join(
        f"| {name} | {found['right']}/{found['total']} | {found['accuracy']:.3f} | {found['low']:.3f} to {found['high']:.3f} |"
        for name, found in metrics["test"].items()
    )
    facts = {"size": SIZE, "parameters": metrics["parameters"], "pictures": pictures, "accuracies": accuracies}
    (out / "README.md").write_text(CARD.format(**facts, **metrics["training"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", type=int, default=500)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--card-only", action="store_true", help="write the card of what is in --out, train nothing")
    args = parser.parse_args()
    if not args.card_only:
        train(args)
    write_card(args.out)


if __name__ == "__main__":
    main()
