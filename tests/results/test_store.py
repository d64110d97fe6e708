"""A run directory: what is written is whole, what is read is the last word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from titer.errors import InputError
from titer.results.store import RunWriter, key_of, read_run, recorded_seed, thumbnail_name

IDENTITY = {"verb": "certify", "settings": {"n": 100}, "seed": 1}
INFO = {"status": "running", "seed": 1, "samples": {}, "seconds": 0.0}


def line(sample: str, radius: float = 0.0) -> dict[str, object]:
    return {"sample_id": sample, "prompts": "zero-shot", "sigma": 0.25, "radius": radius}


def write(path: Path, *records: dict[str, object], identity: dict[str, object] | None = None) -> None:
    with RunWriter(path, IDENTITY if identity is None else identity, INFO) as writer:
        writer.save(status="done")
        for record in records:
            writer.append(record)


def test_self_checks_survive_a_resume(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", {"a": 1}, {"seed": 0, "seconds": 0.0}) as writer:
        writer.save(checks=[{"check": "it grows"}])
    with RunWriter(tmp_path / "run", {"a": 1}, {"seed": 0, "seconds": 0.0}) as writer:
        assert writer.info["checks"] == [{"check": "it grows"}]
        writer.save(status="done")
    assert read_run(tmp_path / "run").info["checks"] == [{"check": "it grows"}]


def test_records_come_back_in_order_of_id(tmp_path: Path) -> None:
    write(tmp_path, line("b"), line("a"), {"sample_id": "c", "path": "c", "error": "broken"})
    run = read_run(tmp_path)
    assert [record["sample_id"] for record in run.records] == ["a", "b"]
    assert [failure["sample_id"] for failure in run.failures] == ["c"]
    assert run.info["status"] == "done"
    assert recorded_seed(tmp_path) == 1
    assert recorded_seed(tmp_path / "nothing") is None


def test_the_last_line_of_a_key_counts_and_success_ends_a_failure(tmp_path: Path) -> None:
    write(tmp_path, {"sample_id": "a", "path": "a", "error": "broken"}, line("a", 0.1), line("a", 0.2))
    run = read_run(tmp_path)
    assert [record["radius"] for record in run.records] == [0.2]
    assert run.failures == ()


def test_sets_and_sigmas_are_keys_of_their_own() -> None:
    assert (
        len(
            {
                key_of(line("a")),
                key_of(line("b")),
                key_of({**line("a"), "sigma": 0.5}),
                key_of({**line("a"), "prompts": "x"}),
            }
        )
        == 4
    )


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    write(tmp_path, line("a"))
    with (tmp_path / "samples.jsonl").open("ab") as stream:
        stream.write('{"sample_id": "ü'.encode()[:-1])
    write(tmp_path, line("b"))
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(one)["sample_id"] for one in lines] == ["a", "b"]


def test_differences_are_named_to_the_leaf(tmp_path: Path) -> None:
    write(tmp_path, line("a"))
    with pytest.raises(InputError, match=r"settings\.n was 100, now 200; settings\.x was null, now 1"):
        write(tmp_path, identity={**IDENTITY, "settings": {"n": 200, "x": 1}})


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with RunWriter(tmp_path, IDENTITY, INFO), pytest.raises(InputError, match="another process"):
        write(tmp_path)
    write(tmp_path)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{broken")
    with pytest.raises(InputError, match="not valid JSON"):
        read_run(tmp_path)


def test_thumbnails_do_not_give_ids_away() -> None:
    assert thumbnail_name("patient Smith/1.png") != thumbnail_name("patient Smith/2.png")
    assert "Smith" not in thumbnail_name("patient Smith/1.png")
