"""Whole runs: what is recorded, that nothing but the settings changes it, and that nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from scipy.stats import norm
from torch import Tensor

import titer
from evaluate.test_voting import MeanSign
from images import SIZE, brightness_encoder, folder, timeless, true_radius
from titer.cli.main import run as command_line
from titer.errors import GuaranteeError, InputError, RunError
from titer.evaluate.plan import unreachable
from titer.evaluate.session import execute
from titer.evaluate.smoothing import plan_certify
from titer.models import Classifier, zero_shot

SIGMA = 0.1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return folder(tmp_path / "data")


def test_records_hold_what_the_contract_says(data: Path, tmp_path: Path) -> None:
    run = titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=500, seed=3, by=["sex"])
    assert run.info["status"] == "done"
    assert run.info["samples"] == {"expected": 8, "done": 8, "failed": 0}
    assert run.info["seed"] == 3
    assert len(run.records) == 8
    record = run.records[0]
    assert record["sample_id"] == record["path"] == "test/bright/0.png"
    assert record["label"] == 1
    assert record["group"] == "patient 0"
    assert record["attributes"] == {"sex": "m"}
    assert len(record["sha256"]) == 64
    assert sum(record["counts"]) == record["draws"] <= 500
    assert sum(record["counts0"]) == record["draws0"] == 100
    assert record["sigma"] == SIGMA
    assert record["alpha"] == 0.001
    assert record["channels"] == 3
    assert record["size"] == [SIZE, SIZE, 1]  # grey, though its file has three channels
    assert record["stretch"] == pytest.approx(3**0.5, abs=1e-5)
    assert record["guarantee"] == "fixed"
    assert set(record) >= {"decided", "refuted", "open", "prompts", "prediction", "radius", "p_lower", "seconds"}


@pytest.mark.parametrize("certifier", ["anytime", "gaussian"])
def test_no_radius_exceeds_the_true_distance(certifier: str, data: Path, tmp_path: Path) -> None:
    encoder, loaded = brightness_encoder(), titer.load_data(data)
    run = titer.certify(encoder, loaded, sigma=SIGMA, out=tmp_path / certifier, certifier=certifier, n=2000, seed=0)
    distances = {e.id: true_radius(encoder.preprocess(loaded.read(e).pixels)) for e in loaded.examples}
    for record in run.records:
        assert record["radius"] <= distances[record["sample_id"]]
        assert record["radius"] <= SIGMA * norm.ppf(0.001 ** (1 / record["draws"])) + 1e-12
        assert record["prediction"] in (-1, record["label"])
    assert max(record["radius"] for record in run.records) > 0.1


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 7), (2, 64), (2, 512), (1, 512)])
def test_records_do_not_depend_on_how_the_work_is_spread(
    workers: int, batch_size: int, data: Path, tmp_path: Path
) -> None:
    options = {"sigma": (SIGMA, 0.3), "seed": 1, "n": 1500, "n0": 70, "templates": ["no {} here"]}
    first = titer.certify(brightness_encoder(), data, out=tmp_path / "one", workers=1, **options)  # type: ignore[arg-type]
    other = titer.certify(
        brightness_encoder(),
        data,
        out=tmp_path / "other",
        workers=workers,
        batch_size=batch_size,
        **options,  # type: ignore[arg-type]
    )
    assert timeless(first) == timeless(other)
    assert len(first.records) == 8 * 2 * 2


def test_tiny_records_do_not_depend_on_workers_and_batch_size(tmp_path: Path) -> None:
    """The same with a real transformer, whose kernels could round differently."""
    runs = [
        titer.certify(
            "titer:tiny",
            "titer:phantoms",
            sigma=0.2,
            limit=3,
            n=100,
            seed=5,
            out=tmp_path / f"{size}",
            workers=workers,
            batch_size=size,
        )
        for workers, size in [(1, 7), (2, 64), (2, 512)]
    ]
    assert timeless(runs[0]) == timeless(runs[1]) == timeless(runs[2])


COMMAND = [sys.executable, "-c", "import sys; from titer.cli.main import main; main()"]


def arguments(out: Path) -> list[str]:
    """Long enough to be killed in the middle."""
    return [
        *("certify", "--model", "titer:tiny", "--data", "titer:phantoms", "--sigma", "0.15", "--limit", "12"),
        *("--certifier", "gaussian", "--n", "150", "--seed", "9", "--workers", "2", "--out", str(out)),
    ]


def test_kill_9_and_resume_give_the_same_records(tmp_path: Path) -> None:
    # what nobody kills runs here: a process of its own takes seconds to start
    assert command_line(arguments(tmp_path / "whole")) == 0
    lines = tmp_path / "killed" / "samples.jsonl"
    for wanted in (2, 6):
        process = subprocess.Popen(
            [*COMMAND, *arguments(tmp_path / "killed")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if lines.exists() and lines.read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert json.loads((tmp_path / "killed" / "run.json").read_text())["status"] == "running"
    with lines.open("ab") as stream:
        stream.write(b'{"sample_id": "test/1", "half a li')  # what a crash in the middle of a write leaves
    assert command_line(arguments(tmp_path / "killed")) == 0
    assert timeless(titer.read_run(tmp_path / "killed")) == timeless(titer.read_run(tmp_path / "whole"))
    assert lines.read_bytes().count(b"\n") == 12


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, *arguments(tmp_path / "run")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # a shell that starts the tests in the background lets them ignore Ctrl-C, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    lines = tmp_path / "run" / "samples.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (lines.exists() and lines.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Go on with: titer certify" in told
    assert "Traceback" not in told
    assert titer.read_run(tmp_path / "run").info["status"] == "interrupted"


def test_a_finished_run_does_nothing_and_the_seed_is_recorded(data: Path, tmp_path: Path) -> None:
    first = titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=200)
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    again = titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=200)
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before
    assert again.info["seed"] == first.info["seed"]
    fresh = titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "fresh", n=200)
    assert fresh.info["seed"] != first.info["seed"]


def test_another_identity_is_refused_naming_the_differences(data: Path, tmp_path: Path) -> None:
    titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=200)
    with pytest.raises(InputError, match=r"settings\.n was 200, now 300"):
        titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=300)
    with pytest.raises(InputError, match="samples was"):
        titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=200, limit=4)
    other = brightness_encoder()
    with torch.no_grad():
        other.image_tower.scale.fill_(4.0)  # type: ignore[attr-defined]
    changed = titer.wrap(other.image_tower, other.text_tower, SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), name="brightness")
    with pytest.raises(InputError, match="model was"):
        titer.certify(changed, data, sigma=SIGMA, out=tmp_path / "run", n=200)


def test_a_directory_in_use_or_of_another_kind_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is no run"):
        titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "other", n=200)
    with pytest.raises(InputError, match="is a file"):
        titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "other" / "thesis.tex", n=200)
    chosen = plan_certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=20_000, certifier="gaussian")
    busy = threading.Thread(target=lambda: execute(chosen, tmp_path / "run", workers=1))
    busy.start()
    while not (tmp_path / "run" / "samples.jsonl").exists():
        time.sleep(0.001)
    with pytest.raises(InputError, match="another process"):
        execute(chosen, tmp_path / "run", workers=1)
    busy.join()


def test_bad_pictures_are_recorded_and_tried_again(data: Path, tmp_path: Path) -> None:
    (data / "test/dark/0.png").write_bytes(b"")
    kept = (data / "test/bright/1.png").read_bytes()
    (data / "test/bright/1.png").write_bytes(kept[: len(kept) // 2])
    (data / "test/bright/2.png").unlink()
    run = titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=200)
    assert run.info["samples"] == {"expected": 8, "done": 5, "failed": 3}
    assert {failure["sample_id"] for failure in run.failures} == {
        "test/dark/0.png",
        "test/bright/1.png",
        "test/bright/2.png",
    }
    assert all(set(failure) == {"sample_id", "path", "error"} for failure in run.failures)
    (data / "test/bright/1.png").write_bytes(kept)
    run = titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=200)
    assert run.info["samples"] == {"expected": 8, "done": 6, "failed": 2}


def test_no_picture_at_all_is_a_failed_run(data: Path, tmp_path: Path) -> None:
    for path in data.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(RunError, match="no sample succeeded"):
        titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=200)
    assert titer.read_run(tmp_path / "run").info["status"] == "failed"


def test_a_full_disk_is_one_clear_error(data: Path, tmp_path: Path) -> None:
    """A real limit of the kernel on the size of files, in a process of its own."""
    code = (
        "import resource, signal, sys, titer; sys.path.insert(0, sys.argv[3]); from images import brightness_encoder\n"
        "encoder, data = brightness_encoder(), titer.load_data(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try: titer.certify(encoder, data, sigma=0.1, out=sys.argv[2], n=200, images=False)\n"
        "except titer.RunError as error: print(error)"
    )
    here = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, str(data), str(tmp_path / "run"), here],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot write to" in done.stdout, done.stderr
    assert "type the same command again" in done.stdout
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4000
    run = titer.certify(brightness_encoder(), data, sigma=0.1, out=tmp_path / "run", n=200)
    assert len(run.records) == 8


def test_joint_alpha_is_shared_by_all_statements_failures_included(data: Path, tmp_path: Path) -> None:
    (data / "test/dark/0.png").write_bytes(b"")
    run = titer.certify(
        brightness_encoder(),
        data,
        sigma=(SIGMA, 0.2),
        out=tmp_path / "run",
        certifier="gaussian",
        n=500,
        joint=True,
        templates=["no {}"],
    )
    assert {record["alpha"] for record in run.records} == {0.001 / (8 * 2 * 2)}


def test_grey_noise_is_drawn_once_and_colour_is_refused(data: Path, tmp_path: Path) -> None:
    run = titer.certify(
        brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "grey", n=2000, noise_channels=1, seed=0
    )
    assert {record["channels"] for record in run.records} == {1}
    assert all(1 <= record["stretch"] < 1.00001 for record in run.records)
    encoder, loaded = brightness_encoder(), titer.load_data(data)
    # in grey levels the picture has a third of the values, so the boundary is nearer by sqrt(3)
    distances = {e.id: true_radius(encoder.preprocess(loaded.read(e).pixels)) / 3**0.5 for e in loaded.examples}
    assert all(record["radius"] <= distances[record["sample_id"]] for record in run.records)
    Image.new("RGB", (SIZE, SIZE), (200, 10, 10)).save(data / "test/dark/0.png")
    run = titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "colour", n=200, noise_channels=1)
    assert [failure["error"] for failure in run.failures] == [
        "a colour picture; --noise-channels 1 is for one-channel pictures"
    ]


def test_of_altered_pictures_the_radius_at_their_own_size_is_not_known(data: Path, tmp_path: Path) -> None:
    altered = titer.load_data(f"corrupted:brightness-up/1@{data}", limit=2)
    run = titer.certify(brightness_encoder(), altered, sigma=SIGMA, out=tmp_path / "run", n=200)
    assert [("size" in record, "stretch" in record) for record in run.records] == [(True, False)] * 2


def test_prompt_sets_share_one_encoder_pass(data: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    encoder = brightness_encoder()

    def counting_tower(images: Tensor) -> Tensor:
        calls.append(len(images))
        return encoder.image_tower(images)

    counted = titer.wrap(counting_tower, encoder.text_tower, SIZE, (0.5,) * 3, (0.5,) * 3, fingerprint="counted")
    calls.clear()
    titer.certify(counted, data, sigma=SIGMA, out=tmp_path / "one", certifier="gaussian", n=500, n0=100, workers=1)
    one = len(calls)
    calls.clear()
    five = [f"{{}} number {place}" for place in range(4)]
    run = titer.certify(
        counted,
        data,
        sigma=SIGMA,
        out=tmp_path / "five",
        certifier="gaussian",
        n=500,
        n0=100,
        workers=1,
        templates=five,
    )
    assert len(run.records) == 5 * 8
    assert len(calls) == one
    by_set = {name: [r["counts"] for r in run.records if r["prompts"] == name] for name in run.info["prompts"]}
    assert (
        len({str(counts) for counts in by_set.values()}) == 1
    )  # the words do not differ in what this text tower reads


def test_a_classifier_that_adapts_is_refused(data: Path, tmp_path: Path) -> None:
    encoder, loaded = brightness_encoder(), titer.load_data(data)
    fixed = zero_shot(encoder, loaded.classes)
    adapting = Classifier("adapts", encoder, fixed.head, fixed.classes, "x", adaptation=MeanSign())
    with pytest.raises(GuaranteeError, match="conditional, per-draw, product"):
        titer.certify(encoder, loaded, sigma=SIGMA, out=tmp_path / "run", prompts={"adapts": adapting})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 0.0}, "sigma.*got 0"),
        ({"sigma": -1.0}, "sigma.*got -1"),
        ({"sigma": (0.1, 0.1)}, "different"),
        ({"alpha": 1.0}, "alpha"),
        ({"n": 5}, "at least 12 draws"),
        ({"n0": 0}, "n0"),
        ({"certifier": "gausian"}, "did you mean 'gaussian'"),
        ({"radius": 3}, "unknown option 'radius'"),
        ({"bound": "runnerup"}, "did you mean 'runner-up'"),
        ({"noise_channels": 2}, "noise channels"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
        ({"batch_size": 0}, "batch size"),
        ({"prompts": ("zero-shot", "zero-shot")}, "two prompt sets"),
        ({"prompts": ("somewhere",)}, "somewhere"),
        ({"templates": ("no braces",)}, "template"),
        ({"guarantee": "certain"}, "guarantee"),
        ({"by": ("age",)}, "column 'age'"),
        ({"limit": 0}, "limit"),
        ({"split": "tset"}, "split"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_drawn(
    options: dict[str, object], words: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        titer.certify(brightness_encoder(), data, **{"sigma": SIGMA, "out": tmp_path / "run", **options})  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "samples.jsonl").exists() or not (tmp_path / "run" / "samples.jsonl").read_bytes()


@pytest.mark.usefixtures("data")
def test_data_without_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("file_name,caption\ndata/test/dark/0.png,something dark\n")
    with pytest.raises(InputError, match="no labels"):
        titer.certify(brightness_encoder(), tmp_path / "pairs.csv", sigma=SIGMA, out=tmp_path / "run")


def test_radii_beyond_the_cap_are_named(data: Path, tmp_path: Path) -> None:
    chosen = plan_certify(brightness_encoder(), data, sigma=(0.1, 1.0), out=tmp_path, radii=(0.0, 0.2, 0.9), n=1000)
    assert unreachable(chosen) == {0.1: [0.9]}


def test_predict_answers_and_abstains(data: Path, tmp_path: Path) -> None:
    run = titer.predict(brightness_encoder(), data, sigma=2.0, out=tmp_path / "run", n=30, seed=0)
    assert {record["prediction"] for record in run.records} >= {-1}
    assert {"prediction", "counts", "draws", "p_value", "sigma", "alpha"} <= set(run.records[0])
    with pytest.raises(InputError, match="at least 11 draws"):
        titer.predict(brightness_encoder(), data, sigma=0.1, out=tmp_path / "few", n=10)


def test_thumbnails_can_be_left_out(data: Path, tmp_path: Path) -> None:
    titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "with", n=100)
    titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "without", n=100, images=False)
    assert len(list((tmp_path / "with" / "images").iterdir())) == 8
    assert not (tmp_path / "without" / "images").exists()


def test_threads_are_as_before(data: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "run", n=100)
    assert torch.get_num_threads() == before


def test_an_independent_program_agrees_with_every_certificate(data: Path, tmp_path: Path) -> None:
    """The auditor's script beside the project, where it is there."""
    script = Path(__file__).parents[3] / "shared" / "tools" / "check_certificates.py"
    if not script.exists():
        pytest.skip("the auditor's script is not beside this clone")
    for name in ("anytime", "gaussian"):
        titer.certify(brightness_encoder(), data, sigma=SIGMA, out=tmp_path / name, certifier=name, n=1000)
        checked = subprocess.run(
            [sys.executable, str(script), str(tmp_path / name), "8", *(["anytime"] if name == "anytime" else [])],
            capture_output=True, text=True, check=False, env={**os.environ},
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout + checked.stderr
    shutil.rmtree(tmp_path / "anytime")
