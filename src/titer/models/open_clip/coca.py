"""CoCa (Yu et al., TMLR 2022, arXiv 2205.01917) as open_clip and CONCH (Lu et al., Nature Medicine 2024) publish it.

Both towers differ from CLIP's in what is read off at the end: the image's feature is what a learned query finds among the
tokens, the text's is the state of a token behind its last place. What writes captions is no part of an answer: its tensors
are checked and left unread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from titer.models.huggingface import ImageTower
from titer.models.open_clip.config import Told
from titer.models.weights import Weights, check

_DECODER = "text_decoder."


class AttentionPool(nn.Module):
    """What the first of several learned queries finds among tokens; the queries do not see each other.

    Args:
        dim: of the queries.
        width: of the tokens.
        heads: of the attention.
        queries: how many there are in the file; the others gather tokens for captions.
    """

    def __init__(self, dim: int, width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, dim))
        self.attn = nn.MultiheadAttention(dim, heads, kdim=width, vdim=width, batch_first=True)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(width)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, dim) of tokens (batch, tokens, width)."""
        known = self.ln_k(tokens)
        asked = self.ln_q(self.query[:1]).expand(len(tokens), -1, -1)
        found: Tensor = self.norm(self.attn(asked, known, known, need_weights=False)[0][:, 0])
        return found


class PoolingTower(ImageTower):
    """A ViT whose feature is pooled by attention from all its tokens.

    Args:
        vision: the transformer; its last norm is that of all tokens, or none.
        pool: what is made of them.
        projection: to the space that images and texts share.

    Tokens that were learned beside the patches are not pooled, as with other heads (Jia et al., ECCV 2022).
    """

    def __init__(self, vision: Any, pool: AttentionPool, projection: nn.Module) -> None:
        super().__init__(vision, projection)
        self.pool = pool
        self._own: int = vision.embeddings.num_positions

    def forward(self, images: Tensor) -> Tensor:
        """Features (batch, dim)."""
        tokens = self.vision(pixel_values=images).last_hidden_state[:, : self._own]
        features: Tensor = self.projection(self.pool(self.vision.post_layernorm(tokens)))  # type: ignore[operator]
        return features


class CocaText(nn.Module):
    """Token ids to features: those of a class token that stands in the last place, whatever the length of the text.

    Args:
        config: of the transformer; its last position is the class token's.
        dim: number of features.
        padding: id of the padding.
    """

    def __init__(self, config: CLIPTextConfig, dim: int, padding: int) -> None:
        super().__init__()
        self.text_model = CLIPTextModel(config)
        self.cls_emb = nn.Parameter(torch.zeros(config.hidden_size))
        self.text_projection = nn.Linear(config.hidden_size, dim, bias=False)
        self.padding = padding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features (texts, dim)."""
        ids = input_ids.masked_fill(attention_mask == 0, self.padding)
        positions = self.text_model.embeddings.position_embedding.weight
        if ids.shape[1] < len(positions) - 1:  # one place of padding is seen, the others are not
            ids = F.pad(ids, (0, 1), value=self.padding)
        last = (self.cls_emb + positions[-1]).expand(len(ids), 1, -1)
        states = torch.cat([self.text_model.embeddings(ids), last], dim=1)
        states = self.text_model.encoder(states, attention_mask=self._mask(ids, states)).last_hidden_state
        features: Tensor = self.text_projection(self.text_model.final_layer_norm(states[:, -1]))
        return features

    def _mask(self, ids: Tensor, states: Tensor) -> Tensor:
        """What is added to the scores, (texts, 1, length + 1, length + 1): minus infinity where nothing is seen.

        A place sees itself and those before it; the class token does not see padding. The published weights were trained
        with that mask one place too far: the class token sees the first place of padding, and itself only behind a text
        that fills all places.
        """
        length = states.shape[1]
        seen = torch.ones(len(ids), length, length, dtype=torch.bool, device=ids.device).tril()
        seen[:, -1] = F.pad(ids != self.padding, (1, 0), value=True)
        return states.new_zeros(len(ids), 1, length, length).masked_fill(~seen[:, None], -torch.inf)


def without_captions(told: Told, weights: Weights, file: Path) -> tuple[Weights, int]:
    """The tensors of the two towers, and how many others there were.

    CoCa's decoder may be missing: CONCH's is not published. If it is there, it must be whole.

    Raises:
        InputError: for tensors of the decoder, or of what gathers tokens for it, that do not fit.
    """
    prefixes: list[str] = []
    if any(name.startswith(_DECODER) for name in weights):
        prefixes.append(_DECODER)
        check(_decoder(told), _below(weights, _DECODER), file)
    part = told.part("vision_cfg")
    if part.get("attentional_pool_caption"):
        dim, width = int(told.model.get("embed_dim_caption", 768)), int(part.get("width", 768))
        pool = AttentionPool(dim, width, int(part.get("attn_pooler_heads", 8)), int(part.get("n_queries_caption", 256)))
        own, norm = "visual.attn_pool_caption.", "visual.ln_caption."
        shapes = {
            norm + name.removeprefix("norm.") if name.startswith("norm.") else own + name: tuple(tensor.shape)
            for name, tensor in pool.state_dict().items()
        }
        check(shapes, _below(weights, own) | _below(weights, norm), file)
        prefixes += [own, norm]
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(prefixes))}
    return kept, len(weights) - len(kept)


def _below(weights: Weights, prefix: str) -> Weights:
    return {name: tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _decoder(told: Told) -> dict[str, tuple[int, ...]]:
    """Shapes of the decoder's tensors: layers that look at the text, each with one behind it that looks at the image."""
    part = told.part("multimodal_cfg")
    width, words = int(part.get("width", 512)), int(part.get("vocab_size", 49408))
    shapes: dict[str, tuple[int, ...]] = {
        f"{_DECODER}ln_final.weight": (width,),
        f"{_DECODER}ln_final.bias": (width,),
        f"{_DECODER}text_projection": (width, words),
    }
    for layer in range(int(part.get("layers", 12))):
        for block, norms in (("resblocks", ("ln_1", "ln_2")), ("cross_attn", ("ln_1", "ln_1_kv", "ln_2"))):
            own = f"{_DECODER}{block}.{layer}."
            shapes |= {f"{own}{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
            for name, (out, inner) in {
                "attn.in_proj_": (3 * width, width),
                "attn.out_proj.": (width, width),
                "mlp.c_fc.": (4 * width, width),
                "mlp.c_proj.": (width, 4 * width),
            }.items():
                shapes |= {f"{own}{name}weight": (out, inner), f"{own}{name}bias": (out,)}
    return shapes
