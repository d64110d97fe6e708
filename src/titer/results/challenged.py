"""Numbers of runs of challenges, computed from their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from titer.errors import InputError
from titer.results.store import Record, Run

_SURE = 1 - 1e-6


@dataclass(frozen=True)
class Challenged:
    """The challenges of one prompt set at one sigma under one guarantee.

    Args:
        prompts: name of the prompt set.
        guarantee: of its certificates.
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        records: one per challenge.
    """

    prompts: str
    guarantee: str
    sigma: float
    records: tuple[Record, ...]

    @property
    def inside(self) -> tuple[Record, ...]:
        """Challenges within the claimed radius."""
        return tuple(record for record in self.records if record["inside"])

    @property
    def breaks(self) -> int:
        """How many of them broke their certificate."""
        return sum(record["broken"] for record in self.inside)

    @property
    def allowed(self) -> int:
        """The most breaks that chance explains, were each certificate wrong with probability alpha."""
        error = self._largest("alpha") + self._largest("alpha_p")
        return allowed_breaks(len(self.inside), error) if self.inside else 0

    @property
    def certificates(self) -> int:
        """Certificates challenged within their radius."""
        return len({record["sample_id"] for record in self.inside})

    @property
    def broken_certificates(self) -> int:
        """Certificates broken within their radius by at least one challenge."""
        return len({record["sample_id"] for record in self.inside if record["broken"]})

    @property
    def allowed_certificates(self) -> int:
        """The most broken certificates that chance explains. Challenges of one certificate are not independent: if it is
        wrong, all may break it. Certificates are, so this is the exact one of the two bounds.
        """
        if not self.inside:
            return 0
        tried = max(sum(one["sample_id"] == sample for one in self.inside) for sample in self._samples)
        return allowed_breaks(self.certificates, self._largest("alpha") + tried * self._largest("alpha_p"))

    @property
    def holds(self) -> bool:
        """Whether there are no more breaks than chance explains, by either count."""
        return self.breaks <= self.allowed and self.broken_certificates <= self.allowed_certificates

    @property
    def verdict(self) -> str:
        """What the challenges inside say."""
        if not self.inside:
            return "not challenged inside"
        return "holds" if self.holds else "broken: more breaks than chance explains"

    @property
    def first_breaks(self) -> tuple[float, ...]:
        """For each certificate challenged outside, or broken before, the share of its radius at which it first broke; infinity
        where none of those tried did.
        """
        found = []
        for sample in sorted(self._samples):
            own = [record for record in self.records if record["sample_id"] == sample]
            at = [record["factor"] for record in own if record["broken"]]
            if at or any(not record["inside"] for record in own):
                found.append(min(at, default=float("inf")))
        return tuple(found)

    @property
    def unbroken(self) -> int:
        """How many of those no challenge broke: their share is beyond the largest one tried."""
        return sum(np.isinf(self.first_breaks))

    def quantile(self, share: float) -> float:
        """The smallest share of the radius at which so many of the certificates were broken; infinity where fewer were."""
        if not self.first_breaks:
            return float("nan")
        return float(np.quantile(self.first_breaks, share, method="inverted_cdf"))

    @property
    def _samples(self) -> set[str]:
        return {record["sample_id"] for record in self.records}

    def _largest(self, name: str) -> float:
        return max(float(record[name]) for record in self.records)


def allowed_breaks(challenges: int, error: float) -> int:
    """The 1 - 1e-6 quantile of a binomial: more breaks than this are no accident.

    Args:
        challenges: how many there were.
        error: probability that one breaks by chance; alpha of the certificate and alpha of PREDICT together.
    """
    return int(binom.ppf(_SURE, challenges, error))


def challenged(run: Run) -> list[Challenged]:
    """Every part of a run of challenges: by prompt set in the order of its settings, then by rising sigma.

    Raises:
        InputError: if the run challenged nothing.
    """
    return pooled([run])


def pooled(runs: Sequence[Run]) -> list[Challenged]:
    """The same over several runs: parts of one prompt set, guarantee and sigma are put together.

    Raises:
        InputError: if a run challenged nothing.
    """
    found: dict[tuple[str, str, float], list[Record]] = {}
    for place, run in enumerate(runs):
        if run.info.get("verb") != "challenge":
            raise InputError(f"{run.path} was written by {run.info.get('verb')}; expected a run of challenge")
        for record in run.records:
            own = {**record, "sample_id": f"{place}\x00{record['sample_id']}"}
            found.setdefault((record["prompts"], record["guarantee"], record["sigma"]), []).append(own)
    order = list(dict.fromkeys(name for run in runs for name in run.info.get("prompts", {})))
    keys = sorted(found, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), *key[1:]))
    return [Challenged(*key, tuple(found[key])) for key in keys]


@dataclass(frozen=True)
class ChallengeRow:
    """One line of the table that ``challenge`` prints at its end."""

    prompts: str
    guarantee: str
    sigma: float
    certificates: int
    inside: int
    breaks: int
    allowed: int
    certificates_broken: str
    verdict: str
    first_break: str
    unbroken: str


def overview(run: Run) -> list[ChallengeRow]:
    """Breaks inside and how soon it breaks outside, a row for each part."""
    return [row_of(part) for part in challenged(run)]


def row_of(part: Challenged) -> ChallengeRow:
    """One part as a line of the table."""
    low, middle, high = (_factor(part.quantile(share)) for share in (0.25, 0.5, 0.75))
    return ChallengeRow(
        prompts=part.prompts,
        guarantee=part.guarantee,
        sigma=part.sigma,
        certificates=part.certificates,
        inside=len(part.inside),
        breaks=part.breaks,
        allowed=part.allowed,
        certificates_broken=f"{part.broken_certificates} (allowed {part.allowed_certificates})",
        verdict=part.verdict,
        first_break=f"{middle} ({low} to {high})" if part.first_breaks else "-",
        unbroken=f"{part.unbroken} of {len(part.first_breaks)}",
    )


def _factor(factor: float) -> str:
    return "none" if np.isinf(factor) else f"{factor:g}"
