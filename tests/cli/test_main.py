"""The command line as a person types it: exit statuses, one-line mistakes, machine-readable output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import titer
from images import folder
from published_files import medclip_directory, open_clip_directory
from titer.cli.main import app, run

CERTIFY = ("certify", "--model", "titer:tiny", "--sigma", "0.1", "--n", "200")


def typed(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = run([str(argument) for argument in arguments])
    told = capfd.readouterr()
    return status, told.out, told.err


@pytest.mark.parametrize("verb", [command.name for command in app.registered_commands])
def test_every_verb_has_help_with_an_example_and_takes_seed_and_device(
    verb: str, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = typed(capfd, verb, "--help")
    assert status == 0
    assert f"Example: titer {verb}" in " ".join(out.split())
    assert "--seed" in out
    assert "--device" in out


def test_seed_and_device_are_taken_where_nothing_depends_on_them(capfd: pytest.CaptureFixture[str]) -> None:
    plain = typed(capfd, "list", "certifiers")
    assert typed(capfd, "list", "certifiers", "--seed", 3, "--device", "cpu") == plain


def test_the_whole_way_from_certify_to_export(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    status, told, err = typed(
        capfd, *CERTIFY, "--data", "titer:phantoms", "--limit", 8, "--out", out, "--template", "a picture: {}"
    )
    assert status == 0
    header, *rows = told.strip().split("\n")
    assert header.split("\t")[:3] == ["prompts", "sigma", "images"]
    assert [row.split("\t")[0] for row in rows] == ["zero-shot", "a picture: {}"]
    assert "8 of 8 images done, 0 failed" in err
    assert len(titer.read_run(out).records) == 16
    assert typed(capfd, "report", out, "--out", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert "Robustness report" in page
    assert typed(capfd, "export", out, "--to", "cohen", "--out", tmp_path / "x.tsv")[0] == 0
    assert sorted(path.name for path in tmp_path.glob("x*")) == ["x.a_picture____.tsv", "x.zero-shot.tsv"]
    assert (tmp_path / "x.zero-shot.tsv").read_text().startswith("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t")
    assert typed(capfd, "report", tmp_path / "x.zero-shot.tsv", "--out", tmp_path / "foreign.html")[0] == 0


def test_resume_without_a_seed_takes_the_recorded_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = (*CERTIFY, "--data", "titer:phantoms", "--limit", 3, "--out", tmp_path / "run")
    assert typed(capfd, *command)[0] == 0
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    assert typed(capfd, *command)[0] == 0
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before
    status, _, err = typed(capfd, *command, "--n0", 50)
    assert status == 2
    assert "settings.n0 was 100, now 50" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("certify",), "--model"),
        (("certify", "--modle", "x"), "--modle"),
        (("bogus",), "bogus"),
        ((*CERTIFY, "--data", "titer:phantom", "--out", "OUT"), "did you mean 'titer:phantoms'"),
        ((*CERTIFY, "--data", "no/such/folder", "--out", "OUT"), "no/such/folder"),
        (
            ("certify", "--model", "titer:tinny", "--data", "titer:phantoms", "--sigma", "1", "--out", "OUT"),
            "did you mean 'titer:tiny'",
        ),
        (
            ("certify", "--model", "vinid/plip", "--data", "titer:phantoms", "--sigma", "1", "--out", "OUT"),
            "vinid/plip",
        ),
        ((*CERTIFY, "--data", "titer:phantoms", "--out", "OUT", "--sigma", "much"), "--sigma: expected a number"),
        ((*CERTIFY, "--data", "titer:phantoms", "--out", "OUT", "--sigma", "1/0"), "--sigma"),
        ((*CERTIFY, "--data", "titer:phantoms", "--out", "OUT", "--alpha", "1.5"), "alpha"),
        ((*CERTIFY, "--data", "titer:phantoms", "--out", "OUT", "--n", "4"), "at least 12"),
        (
            (*CERTIFY, "--data", "titer:phantoms", "--out", "OUT", "--n", "many"),
            "--n: expected a whole number, got 'many'",
        ),
        (
            (*CERTIFY, "--data", "titer:phantoms", "--out", "OUT", "--radii", "0.1", "--tolerance", "0.1"),
            "give one of them",
        ),
        ((*CERTIFY, "--data", "titer:phantoms", "--out", "OUT", "--device", "abacus"), "abacus"),
        ((*CERTIFY, "--data", "titer:phantoms", "--out", "OUT", "--dtype", "float8"), "float8"),
        (("report", "no/run", "--out", "OUT"), "no/run"),
        (("export", "no/run", "--to", "cohen", "--out", "OUT"), "no/run"),
        (("show", "certifier", "anytim"), "did you mean 'anytime'"),
        (("list", "certifier"), "did you mean 'certifiers'"),
        (("check",), "--model, --data or both"),
        (
            ("check", "--model", "open_clip:ViT-B-33/model.pt"),
            "unknown architecture 'ViT-B-33'; did you mean 'ViT-B-32'",
        ),
        (("check", "--model", "open_clip:ViT-B-32/model.pt"), "no such file"),
        (("check", "--model", "medclip:nowhere"), "expected medclip:PATH"),
        (("check", "--model", "google/medsiglip-448"), "gated"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, out, err = typed(
        capfd, *(str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments)
    )
    assert status == 2
    assert out == ""
    assert len(err.strip().split("\n")) == 1, err
    assert words in err
    assert err.startswith("titer: ")


def test_json_is_one_document(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = typed(capfd, *CERTIFY, "--data", "titer:phantoms", "--limit", 2, "--out", tmp_path / "run", "--json")
    assert json.loads(out)[0]["images"] == 2
    _, out, _ = typed(
        capfd, *CERTIFY, "--data", "titer:phantoms", "--limit", 2, "--out", tmp_path / "est", "--estimate", "--json"
    )
    assert json.loads(out)["most_draws"] == 600
    assert not (tmp_path / "est").exists()
    for arguments in (("list",), ("show", "certifier", "gaussian"), ("check", "--model", "titer:tiny")):
        status, out, _ = typed(capfd, *arguments, "--json")
        assert status == 0
        json.loads(out)


def test_show_says_settings_shared_with_relatives_but_not_what_relatives_are(capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = typed(capfd, "show", "defense", "maple")
    assert out.startswith("Image tokens that are maps of the text tokens")
    assert "coupling:" in out
    assert "eps:" in out
    assert "Independent tokens" not in out  # what ivlp, of which maple is made, says of itself


def test_predict_and_unreachable_radii(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = folder(tmp_path / "data", per_class=1)
    status, _, err = typed(
        capfd, *CERTIFY, "--data", data, "--radii", "0,9", "--out", tmp_path / "certify", "--by", "sex", "--no-images"
    )
    assert status == 0
    assert "can prove a radius of 9; left open" in err
    assert not (tmp_path / "certify" / "images").exists()
    assert typed(capfd, "report", tmp_path / "certify", "--by", "sex", "--out", tmp_path / "p.html")[0] == 0
    assert "By sex" in (tmp_path / "p.html").read_text()
    assert typed(capfd, "report", tmp_path / "certify", "--by", "age", "--out", tmp_path / "p.html")[0] == 2
    status, _, _ = typed(
        capfd,
        "predict",
        "--model",
        "titer:tiny",
        "--data",
        data,
        "--sigma",
        "1/10",
        "--n",
        100,
        "--out",
        tmp_path / "predict",
    )
    assert status == 0
    assert "p_value" in titer.read_run(tmp_path / "predict").records[0]


def test_failures_are_counted_and_a_run_without_success_is_status_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = folder(tmp_path / "data", per_class=1)
    (data / "test/dark/0.png").write_bytes(b"\x89PNG broken")
    status, _, err = typed(capfd, *CERTIFY, "--data", data, "--out", tmp_path / "some")
    assert status == 0
    assert "1 of 2 images done, 1 failed" in err
    (data / "test/bright/0.png").write_bytes(b"")
    status, _, err = typed(capfd, *CERTIFY, "--data", data, "--out", tmp_path / "none")
    assert status == 1
    assert "no sample succeeded" in err


def test_a_200_megapixel_picture_is_refused_unread(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = folder(tmp_path / "data", per_class=1)
    Image.new("1", (20_000, 10_000)).save(data / "test/dark/0.png")
    status, _, err = typed(capfd, *CERTIFY, "--data", data, "--out", tmp_path / "run")
    assert status == 0
    assert "1 failed" in err
    assert "too many pixels" in titer.read_run(tmp_path / "run").failures[0]["error"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (
            "open_clip",
            {
                "licence": "MIT, for research, if it is wisdomik/QuiltNet-B-32",
                "architecture": "open_clip: 2 layers of 32 on patches of 8 pixels (gelu); text: 2 layers of 24, 40 tokens (gelu)",
                "pictures are": "resized and cut to the centre",
                "learned tokens": "in front of 2 text layers, in front of 2 image layers",
                "mean": [0.5, 0.4, 0.3],
                "input size": "32 x 32 pixels",
            },
        ),
        (
            "medclip",
            {
                "licence": "not known here; see where it comes from",
                "architecture": "medclip: Swin Transformer; text: 3 layers of 64, 77 tokens",
                "pictures are": "made grey and padded to a square",
                "learned tokens": "in front of 1 text layer, in front of no image layers",
            },
        ),
        ("titer:tiny", {"licence": "CC BY-SA 4.0", "known as": "Titer's tiny CLIP; pictures: many"}),
    ],
)
def test_check_says_what_a_model_is(
    kind: str, told: dict[str, object], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name: object = kind
    if kind == "open_clip":
        name = open_clip_directory(tmp_path / "QuiltNet-B-32")
    elif kind == "medclip":
        name = f"medclip:{medclip_directory(tmp_path / 'medclip-vit')}"
    status, out, _ = typed(capfd, "check", "--json", "--model", name)
    model = json.loads(out)["model"]
    assert status == 0
    assert {key: model[key] for key in told} == told
    assert model["parameters"] > 1000
    assert len(model["fingerprint"]) == 64


def test_check_shows_counts_and_what_is_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = folder(tmp_path / "data", per_class=2)
    (data / "test/dark/0.png").write_bytes(b"")
    status, out, err = typed(capfd, "check", "--data", data)
    assert status == 0
    assert "dark\t2" in out
    assert "dark/0.png" in err
