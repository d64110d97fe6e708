"""Light-weight methods that harden a frozen model: each is fitted, and makes a classifier of what it has learned."""

from titer.defenses.coop import Coop
from titer.defenses.defense import Defense
from titer.defenses.denoise import Denoise
from titer.defenses.lora import Lora
from titer.defenses.promptsmooth import PromptSmooth
from titer.defenses.task import Fitted, Task
from titer.registry import Registry

DEFENSES: Registry[Defense] = Registry(
    "defense", "titer.defenses", {"coop": Coop, "denoise": Denoise, "lora": Lora, "promptsmooth": PromptSmooth}
)

__all__ = ["DEFENSES", "Coop", "Defense", "Denoise", "Fitted", "Lora", "PromptSmooth", "Task"]
