"""Light-weight methods that harden a frozen model: each is fitted, and makes a classifier of what it has learned."""

from titer.defenses.coop import Coop
from titer.defenses.defense import Defense
from titer.defenses.denoise import Denoise
from titer.defenses.heads import LinearProbe, Residual
from titer.defenses.lora import Lora
from titer.defenses.promptsmooth import PromptSmooth
from titer.defenses.task import Fitted, Task
from titer.defenses.test_time import Tpt
from titer.registry import Registry

DEFENSES: Registry[Defense] = Registry(
    "defense",
    "titer.defenses",
    {
        "coop": Coop,
        "denoise": Denoise,
        "linear-probe": LinearProbe,
        "lora": Lora,
        "promptsmooth": PromptSmooth,
        "residual": Residual,
        "tpt": Tpt,
    },
)

__all__ = [
    "DEFENSES",
    "Coop",
    "Defense",
    "Denoise",
    "Fitted",
    "LinearProbe",
    "Lora",
    "PromptSmooth",
    "Residual",
    "Task",
    "Tpt",
]
