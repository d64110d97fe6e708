"""What runs on a GPU: no tensor is left behind on the CPU, and certificates are those of the CPU."""

from pathlib import Path

import pytest
import torch

import titer
from titer.attacks import ATTACKS
from titer.evaluate.attacking import attack

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def test_certificates_are_those_of_the_cpu(tmp_path: Path) -> None:
    def radii(device: str) -> dict[str, tuple[int, float]]:
        model = titer.load_model("titer:tiny", device=device)
        run = titer.certify(model, "titer:phantoms", sigma=0.25, n=500, n0=50, limit=4, seed=1, out=tmp_path / device)
        return {record["sample_id"]: (record["prediction"], record["radius"]) for record in run.records}

    assert radii("cuda") == radii("cpu")


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "smoothadv"])
def test_attacks_and_self_checks(name: str, tmp_path: Path) -> None:
    model = titer.load_model("titer:tiny", device="cuda")
    quick = {"autoattack": {"steps": 5, "targets": 2, "queries": 20}, "square": {"queries": 50}, "fab-t": {"steps": 5}}
    for norm in ATTACKS[name].norms:
        settings = quick.get(name, {})
        run = attack(
            model, "titer:phantoms", name, norm=norm, eps=0.05, settings=settings, limit=2, out=tmp_path / norm
        )
        assert len(run.records) == 2
        assert run.info["checks"]
