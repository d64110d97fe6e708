"""Where a tensor of transformers' modules stands in a file of open_clip's."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from titer.models.weights import Origin

_Names = tuple[tuple[str, str], ...]
_LAYER: _Names = (
    (r"self_attn\.[qkv]_proj\.", "attn.in_proj_"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"layer_norm", "ln_"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)
_VISION: _Names = (
    (r"vision\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision\.embeddings\.patch_embedding", "visual.conv1"),
    (r"vision\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision\.pre_layrnorm", "visual.ln_pre"),
    (r"vision\.post_layernorm", "visual.ln_post"),
    (r"vision\.encoder\.layers", "visual.transformer.resblocks"),
    (r"^projection\.weight", "visual.proj"),
    (r"^pool\.norm", "visual.ln_post"),
    (r"^pool\.", "visual.attn_pool."),
    *_LAYER,
)
_TEXT: _Names = (
    (r"text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm", "ln_final"),
    (r"text_model\.encoder\.layers", "transformer.resblocks"),
    (r"text_projection\.weight", "text_projection"),
    *_LAYER,
)
_TIMM: _Names = (
    (r"vision\.embeddings\.class_embedding", "visual.trunk.cls_token"),
    (r"vision\.embeddings\.patch_embedding", "visual.trunk.patch_embed.proj"),
    (r"vision\.embeddings\.position_embedding\.weight", "visual.trunk.pos_embed"),
    (r"vision\.post_layernorm", "visual.trunk.norm"),
    (r"vision\.encoder\.layers", "visual.trunk.blocks"),
    (r"self_attn\.[qkv]_proj", "attn.qkv"),
    (r"self_attn\.out_proj", "attn.proj"),
    (r"layer_norm", "norm"),
)
_TIMM_HEAD: _Names = (*_TIMM, (r"^projection", "visual.head.proj"))
_CONCH: _Names = (
    *_TIMM,
    (r"^projection\.weight", "visual.proj_contrast"),
    (r"^pool\.norm", "visual.ln_contrast"),
    (r"^pool\.", "visual.attn_pool_contrast."),
)
_THIRDS = {".q_proj.": 0, ".k_proj.": 1, ".v_proj.": 2}
_TRANSPOSED = ("visual.proj", "visual.proj_contrast", "text_projection")  # parameters there, linear layers here


def resnet_origin(name: str) -> Origin:
    """Of CLIP's ResNet, a ``ResNetTower``."""
    return Origin(re.sub(r"^projection", "visual.attnpool.c_proj", re.sub(r"^vision", "visual", name)))


def _origin(names: _Names, ours: str) -> Origin:
    theirs = ours
    for pattern, name in names:
        theirs = re.sub(pattern, name, theirs)
    third = next((place for part, place in _THIRDS.items() if part in ours), None)
    return Origin(theirs, third, theirs in _TRANSPOSED)


Origins = Callable[[str], Origin]
vision_origin: Origins = partial(_origin, _VISION)
"""Of CLIP's image tower, an ``ImageTower``, and of CoCa's, a ``PoolingTower``."""
text_origin: Origins = partial(_origin, _TEXT)
"""Of CLIP's text tower, a ``CLIPTextModelWithProjection``, and of CoCa's; the file's names without ``text.``."""
timm_origin: Origins = partial(_origin, _TIMM_HEAD)
"""Of timm's ViT in an ``ImageTower``."""
conch_origin: Origins = partial(_origin, _CONCH)
"""Of timm's ViT in CONCH's ``PoolingTower``."""
