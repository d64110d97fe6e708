"""Models of open_clip's own making, read back by this package: features, tokens and pictures side by side.

`make check-openclip`: open_clip and timm ask for torchvision, whose PyPI build does not go with the CPU build of torch. So
they get an environment of their own, without dependencies, and torchvision's detection operators, which nothing here calls,
are declared before it is imported. Weights are random: no model is downloaded. Fails where features differ by more than 1e-5,
or where another number of weights is read than the library's towers have.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from titer.models import Encoder, load_model

FEATURES = 1e-5  # of unit features
TEXTS = [
    "an H&E image patch of colorectal adenocarcinoma epithelium.",
    "A chest X-ray, PA view: no focal consolidation",
    "naïve  T-cells (CD4+), 25 µm",
    "covid",
]
OPERATORS = (
    "nms", "qnms", "roi_align", "_roi_align_backward", "ps_roi_align", "_ps_roi_align_backward", "roi_pool",
    "_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward", "qroi_align", "deform_conv2d", "_deform_conv2d_backward",
)  # fmt: skip
BERT = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 60,
}
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrst"),
]


def open_clip() -> Any:
    """The library."""
    library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        library.define(f"{operator}() -> Tensor")
    import open_clip as imported

    imported.kept = library  # type: ignore[attr-defined]  # the declarations go when it does
    return imported


def write_words(directory: Path, library: Any) -> None:
    """CLIP's tokenizer in Hugging Face's files, from the list of merges that open_clip brings along."""
    file = Path(library.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    merges = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    units = [*list(library.tokenizer.SimpleTokenizer().encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({unit: place for place, unit in enumerate(units)}))


def shaken(model: Any) -> Any:
    """The model with every tensor away from the start of its training, where biases are zero and pictures look alike."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.03 * torch.randn(weights.shape, generator=generator)
        for name, counted in model.named_buffers():  # of a ResNet's normalisations
            if name.endswith("running_mean"):
                counted += 0.1 * torch.randn(counted.shape, generator=generator)
            elif name.endswith("running_var"):
                counted *= 0.5 + torch.rand(counted.shape, generator=generator)
    return model.eval()


def clips(library: Any, root: Path) -> Iterator[tuple[str, Any, Any, Encoder]]:
    """Architectures by name: (what, open_clip's model, its tokenizer, the encoder)."""
    for name in ("ViT-S-32", "ViT-B-32-quickgelu", "RN50-quickgelu", "coca_ViT-B-32"):
        model = shaken(library.create_model(name))
        file = root / name / "checkpoint.pt"
        file.parent.mkdir()
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in model.state_dict().items()}}, file)
        write_words(file.parent, library)
        yield name, model, library.get_tokenizer(name), load_model(f"open_clip:{name}/{file}")


def biomed(library: Any, root: Path) -> tuple[str, Any, Any, Encoder]:
    """BiomedCLIP's kind: timm's ViT-B/16 and a BERT, a small one because its configuration is on the hub."""
    from transformers import BertConfig

    directory = root / "biomed"
    BertConfig(**BERT).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = {
        "embed_dim": 512,
        "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False, "timm_pool": "",
                       "timm_proj": "linear", "image_size": 224},
        "text_cfg": {"hf_model_name": str(directory), "hf_model_pretrained": False, "hf_proj_type": "mlp",
                     "hf_tokenizer_name": str(directory), "hf_pooler_type": "cls_last_hidden_state_pooler",
                     "context_length": 256},
    }  # fmt: skip
    model = shaken(library.CustomTextCLIP(**config))
    (directory / "config.json").unlink()  # BERT's own: now it is a directory of open_clip's
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(
        {key: tensor.contiguous() for key, tensor in model.state_dict().items()},
        directory / "open_clip_model.safetensors",
    )
    tokenizer = library.tokenizer.HFTokenizer(str(directory), context_length=256)
    return "timm ViT-B/16 and BERT", model, tokenizer, load_model(directory)


def features(model: Any, tokenizer: Callable[[list[str]], Tensor], encoder: Encoder) -> tuple[float, float]:
    """Largest difference of unit features of images and of texts."""
    images = torch.rand(4, 3, encoder.size, encoder.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = F.normalize(model.encode_image(encoder.preprocess.normalise(images)), dim=-1)
        words = F.normalize(model.encode_text(tokenizer(TEXTS)), dim=-1)
        return largest(encoder.encode_image(images), theirs), largest(encoder.encode_text(TEXTS), words)


def read_weights(model: Any) -> int:
    """Numbers of weights of the towers and the logit scale: what CoCa writes captions with is not read."""
    return sum(weights.numel() for name, weights in model.named_parameters() if not name.startswith("text_decoder."))


def pictures(library: Any, encoder: Encoder) -> dict[str, float]:
    """Largest difference of prepared pictures, in grey levels of 255: theirs are rounded to 8 bits after resizing."""
    transform = library.transform.image_transform(encoder.size, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = {}
    for height, width in ((224, 224), (500, 333), (300, 301), (224, 227)):
        wave = np.add.outer(np.arange(height), np.arange(width))[..., None] / np.array([9.0, 14.0, 23.0])
        pixels = (127.5 + 100 * np.sin(wave)).astype(np.uint8)
        ours = encoder.preprocess(pixels.astype(np.float32) / np.float32(255))
        found[f"{height} x {width}"] = 255 * largest(ours, transform(Image.fromarray(pixels)))
    return found


def largest(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "").parse_args()
    library, worst = open_clip(), 0.0
    print(f"open_clip {library.__version__}, torch {torch.__version__}")
    print("| model | images: largest difference | texts: largest difference |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for what, model, tokenizer, encoder in (*clips(library, root), biomed(library, root)):
            if encoder.parameters != read_weights(model):
                sys.exit(f"{what}: {encoder.parameters} weights are read, {read_weights(model)} are there")
            of_images, of_texts = features(model, tokenizer, encoder)
            worst = max(worst, of_images, of_texts)
            print(f"| {what} | {of_images:.1e} | {of_texts:.1e} |", flush=True)
        prepared = pictures(library, encoder)
    print("| picture | largest difference, grey levels of 255 |\n|---|---|")
    for shape, difference in prepared.items():
        print(f"| {shape} | {difference:.2f} |")
    if worst > FEATURES:
        sys.exit(f"features differ by {worst:.1e}, more than {FEATURES}")


if __name__ == "__main__":
    main()
