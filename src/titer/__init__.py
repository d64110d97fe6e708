"""Titer measures and raises the adversarial robustness of medical vision-language models.

>>> import titer
>>> model = titer.load_model("titer:tiny")
>>> data = titer.load_data("titer:phantoms", split="test", limit=20)
>>> run = titer.certify(model, data, sigma=0.25, n=1000, out="runs/first")
>>> run.certified_accuracy(radius=0.25)
>>> titer.report([run], out="first.html")
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from titer.certify import Anytime, Gaussian
    from titer.data import load_data
    from titer.defenses.pretrained import from_pretrained
    from titer.errors import GuaranteeError, InputError, PictureError, RunError, TiterError
    from titer.evaluate.attacking import attack
    from titer.evaluate.challenge import challenge
    from titer.evaluate.fitting import fit
    from titer.evaluate.smoothing import certify, predict
    from titer.models import load_model, wrap, zero_shot
    from titer.report.page import report
    from titer.results.comparing import compare
    from titer.results.store import Run, read_run
    from titer.upstream.audit.session import audit
    from titer.upstream.craft import craft
    from titer.upstream.pretrain import pretrain

__version__ = "0.1.0"

# Loaded on first use: torch alone takes seconds, and reading a report needs none of it.
_HOMES = {
    "Anytime": "titer.certify",
    "Gaussian": "titer.certify",
    "GuaranteeError": "titer.errors",
    "InputError": "titer.errors",
    "PictureError": "titer.errors",
    "Run": "titer.results.store",
    "RunError": "titer.errors",
    "TiterError": "titer.errors",
    "attack": "titer.evaluate.attacking",
    "audit": "titer.upstream.audit.session",
    "certify": "titer.evaluate.smoothing",
    "challenge": "titer.evaluate.challenge",
    "compare": "titer.results.comparing",
    "craft": "titer.upstream.craft",
    "fit": "titer.evaluate.fitting",
    "from_pretrained": "titer.defenses.pretrained",
    "load_data": "titer.data",
    "load_model": "titer.models",
    "predict": "titer.evaluate.smoothing",
    "pretrain": "titer.upstream.pretrain",
    "read_run": "titer.results.store",
    "report": "titer.report.page",
    "wrap": "titer.models",
    "zero_shot": "titer.models",
}

__all__ = [
    "Anytime",
    "Gaussian",
    "GuaranteeError",
    "InputError",
    "PictureError",
    "Run",
    "RunError",
    "TiterError",
    "attack",
    "audit",
    "certify",
    "challenge",
    "compare",
    "craft",
    "fit",
    "from_pretrained",
    "load_data",
    "load_model",
    "predict",
    "pretrain",
    "read_run",
    "report",
    "wrap",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'titer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """Keeps ``titer.certify`` and ``titer.report`` the functions, though packages of these names are imported too."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
