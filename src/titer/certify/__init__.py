"""Randomized smoothing: certifiers turn counts of votes under Gaussian noise into certificates."""

from titer.certify.anytime import Anytime
from titer.certify.certificate import ABSTAIN, Answer, Certificate, Draws, Procedure, Proof
from titer.certify.gaussian import Gaussian
from titer.certify.predict import Predict
from titer.registry import Registry

CERTIFIERS: Registry[Anytime | Gaussian] = Registry(
    "certifier", "titer.certifiers", {"anytime": Anytime, "gaussian": Gaussian}
)

__all__ = [
    "ABSTAIN",
    "CERTIFIERS",
    "Answer",
    "Anytime",
    "Certificate",
    "Draws",
    "Gaussian",
    "Predict",
    "Procedure",
    "Proof",
]
