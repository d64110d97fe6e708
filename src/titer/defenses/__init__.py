"""Light-weight methods that harden a frozen model: each is fitted, and makes a classifier of what it has learned."""

from titer.defenses.advpt import AdvPt
from titer.defenses.anchor import Anchor
from titer.defenses.apt import AdvTp, AdvVp, Apt
from titer.defenses.capt import Capt, CaptSmooth
from titer.defenses.coop import Coop
from titer.defenses.defense import Defense, QuestionDefense
from titer.defenses.denoise import Denoise
from titer.defenses.fap import Fap
from titer.defenses.fusion import Fusion
from titer.defenses.heads import LinearProbe, Residual
from titer.defenses.lora import Lora
from titer.defenses.maple import AdvMaple, AdvVlp, Ivlp, Maple
from titer.defenses.nmtune import Mlp, NmTune
from titer.defenses.promptsmooth import PromptSmooth
from titer.defenses.ran import Ran
from titer.defenses.task import Fitted, Task
from titer.defenses.tecoa import Fare, PmgAft, Tecoa
from titer.defenses.test_time import Tpt
from titer.registry import Registry

DEFENSES: Registry[Defense] = Registry(
    "defense",
    "titer.defenses",
    {
        "advmaple": AdvMaple,
        "advpt": AdvPt,
        "advtp": AdvTp,
        "advvlp": AdvVlp,
        "advvp": AdvVp,
        "anchor": Anchor,
        "apt": Apt,
        "capt": Capt,
        "capt-smooth": CaptSmooth,
        "coop": Coop,
        "denoise": Denoise,
        "fap": Fap,
        "fare": Fare,
        "ivlp": Ivlp,
        "linear-probe": LinearProbe,
        "lora": Lora,
        "maple": Maple,
        "mlp": Mlp,
        "nmtune": NmTune,
        "pmg-aft": PmgAft,
        "promptsmooth": PromptSmooth,
        "ran": Ran,
        "residual": Residual,
        "tecoa": Tecoa,
        "tpt": Tpt,
    },
)

QUESTION_DEFENSES: Registry[QuestionDefense] = Registry("defense", "titer.question_defenses", {"fusion": Fusion})
"""Those that learn to answer questions; they make no classifier of images."""

__all__ = [
    "DEFENSES",
    "QUESTION_DEFENSES",
    "AdvMaple",
    "AdvPt",
    "AdvTp",
    "AdvVlp",
    "AdvVp",
    "Anchor",
    "Apt",
    "Capt",
    "CaptSmooth",
    "Coop",
    "Defense",
    "Denoise",
    "Fap",
    "Fare",
    "Fitted",
    "Fusion",
    "Ivlp",
    "LinearProbe",
    "Lora",
    "Maple",
    "Mlp",
    "NmTune",
    "PmgAft",
    "PromptSmooth",
    "QuestionDefense",
    "Ran",
    "Residual",
    "Task",
    "Tecoa",
    "Tpt",
]
