"""Attacks: images within a threat that a model should get wrong."""

from titer.attacks.adaptive import SmoothAdv
from titer.attacks.apgd import ApgdCe, ApgdDlr, ApgdT
from titer.attacks.attack import Attack, Loss, Model, Random
from titer.attacks.embedding import Embedding
from titer.attacks.ensemble import AutoAttack
from titer.attacks.fab import FabT
from titer.attacks.pgd import Fgsm, Pgd
from titer.attacks.square import Square
from titer.attacks.threat import Norm, Threat
from titer.registry import Registry

ATTACKS: Registry[Attack] = Registry(
    "attack",
    "titer.attacks",
    {
        "apgd-ce": ApgdCe,
        "apgd-dlr": ApgdDlr,
        "apgd-t": ApgdT,
        "autoattack": AutoAttack,
        "embedding": Embedding,
        "fab-t": FabT,
        "fgsm": Fgsm,
        "pgd": Pgd,
        "smoothadv": SmoothAdv,
        "square": Square,
    },
)

__all__ = ["ATTACKS", "Attack", "Loss", "Model", "Norm", "Random", "Threat"]
