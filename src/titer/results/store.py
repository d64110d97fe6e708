"""A run directory: ``run.json`` (replaced atomically), ``samples.jsonl`` (appended by one process), ``images/``.

Numbers in tables, plots and pages are computed from the lines of ``samples.jsonl`` and from nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from titer.errors import InputError, RunError
from titer.statistics.intervals import Interval

SCHEMA = 1
Record = dict[str, Any]
Key = tuple[str, ...]

_KEY_FIELDS = ("sample_id", "prompts", "sigma", "attack", "norm", "eps")
_UNFINISHED = "the disk may be full; free some space and type the same command again, it goes on from here"


@dataclass(frozen=True)
class Run:
    """The results of one run, as read from its directory.

    Args:
        path: the run directory.
        info: what ``run.json`` holds: settings, seed, versions, model, data, classes, counts of samples.
        records: finished samples, one per (sample, prompts, sigma or attack), in order of id; the last line of a key counts.
        failures: samples that could not be used, each with ``sample_id``, ``path`` and ``error``.
    """

    path: Path
    info: Mapping[str, Any]
    records: Sequence[Record]
    failures: Sequence[Record]

    def certified_accuracy(self, radius: float, prompts: str | None = None, sigma: float | None = None) -> Interval:
        """Share of all images whose class is right and certified at this L2 radius, with a 95 % interval.

        Args:
            radius: in [0, 1] pixel units at the model's input size.
            prompts: the prompt set, if the run has several.
            sigma: the noise, if the run has several.
        """
        from titer.results.summary import certified_accuracy

        return certified_accuracy(self, radius, prompts, sigma)

    def robust_accuracy(self, epsilon: float | None = None, prompts: str | None = None) -> Interval:
        """Share of all images whose class is right even under attack, with a 95 % interval.

        Args:
            epsilon: budget in [0, 1] pixels, if the run has several.
            prompts: the prompt set, if the run has several.
        """
        from titer.results.robustness import robust_accuracy

        return robust_accuracy(self, epsilon, prompts)


def key_of(record: Mapping[str, Any]) -> Key:
    """What makes a line unique: sample, prompts, and sigma or attack, norm and epsilon."""
    return tuple(str(record.get(field, "")) for field in _KEY_FIELDS)


def thumbnail_name(sample_id: str) -> str:
    """File name of a sample's thumbnail below ``images/``; it gives nothing of the id away."""
    return hashlib.sha256(sample_id.encode()).hexdigest()[:24] + ".png"


def read_run(path: Path | str) -> Run:
    """Read a run directory, finished or not.

    Raises:
        InputError: if the directory does not exist or is no run.
    """
    path = Path(path)
    info = _read_info(path)
    if info is None:
        raise InputError(f"{path} is no run: it holds no run.json; expected a directory written by titer")
    lines = read_lines(path / "samples.jsonl")
    last = {key_of(line): line for line in lines}
    finished = {line["sample_id"] for line in lines if "error" not in line}
    ordered = sorted(last.values(), key=key_of)
    return Run(
        path=path,
        info=info,
        records=tuple(line for line in ordered if "error" not in line),
        failures=tuple(line for line in ordered if "error" in line and line["sample_id"] not in finished),
    )


def read_lines(path: Path) -> list[Record]:
    """The records of a file, but for an unfinished last line; none where there is no file."""
    return [json.loads(line) for line in _whole_lines(path)]


class Lines:
    """A file of records, one JSON object a line, that one process appends to; it goes on behind the last whole line.

    Args:
        path: the file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        whole = _whole_lines(path)
        if path.exists():
            os.truncate(path, sum(len(line.encode()) + 1 for line in whole))
        self.found: list[Record] = [json.loads(line) for line in whole]
        # unbuffered: a line is on its way to the disk when append returns, and close has nothing left to fail on
        self._stream = path.open("ab", buffering=0)

    def append(self, record: Record) -> None:
        """Add one line and put it on the disk."""
        try:
            line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
            while line:
                line = line[self._stream.write(line) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror}; {_UNFINISHED}") from error

    def close(self) -> None:
        """Nothing is left to be written."""
        self._stream.close()


class RunWriter:
    """Writes one run directory, alone, and goes on where an earlier process stopped.

    Args:
        path: the directory; made if missing.
        identity: all that changes a number. A directory that belongs to another identity is refused.
        info: the rest of ``run.json``.
        lines: name of the file of records.

    Raises:
        InputError: if another process writes there, the directory is no run, or it belongs to other settings.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, Any], info: Mapping[str, Any], lines: str = "samples.jsonl"
    ) -> None:
        self.path = path
        self.info: dict[str, Any] = {**info, "identity": json.loads(json.dumps(identity))}
        self._name = lines

    def __enter__(self) -> RunWriter:
        _refuse_foreign(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the run directory {self.path}: {error.strerror}") from error
        self._lock = FileLock(self.path / ".lock")
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise InputError(
                f"another process is writing to {self.path}; wait for it or choose another --out"
            ) from error
        try:
            self._resume()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._lock.release()

    def _resume(self) -> None:
        earlier = _read_info(self.path)
        if earlier is not None:
            found = differences(earlier.get("identity", {}), self.info["identity"])
            if found:
                raise InputError(f"{self.path} belongs to other settings: {'; '.join(found)}; choose another --out")
            self.info["seconds"] = earlier.get("seconds", 0.0)
            if "checks" in earlier:  # made by an attack, and as dear as its records
                self.info["checks"] = earlier["checks"]
        else:
            self.save()  # from here on the directory can be told to be this run
        self._lines = Lines(self.path / self._name)
        self.done = {key_of(record): record for record in self._lines.found if "error" not in record}

    def append(self, record: Record) -> None:
        """Add one line and put it on the disk."""
        self._lines.append(record)
        if "error" not in record:
            self.done[key_of(record)] = record

    def save(self, **changes: Any) -> None:
        """Replace ``run.json`` atomically, with these fields changed."""
        self.info.update(changes)
        write_facts(self.path / "run.json", self.info)


def _read_info(path: Path) -> dict[str, Any] | None:
    return read_facts(path / "run.json")


def read_facts(file: Path) -> dict[str, Any] | None:
    """What a directory of results says of itself in this file; None where there is no file.

    Raises:
        InputError: if it is not valid JSON.
    """
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    return facts


def write_facts(file: Path, facts: Mapping[str, Any]) -> None:
    """Say it, in the place of what this file said before; whoever reads meanwhile finds the one or the other.

    Raises:
        RunError: if the disk is full or the file cannot be written.
    """
    partial = file.with_suffix(f"{file.suffix}.partial")
    try:
        partial.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        raise RunError(f"cannot write to {file}: {error.strerror}; {_UNFINISHED}") from error


def recorded_seed(path: Path) -> int | None:
    """The seed of the run in this directory, or None if there is none."""
    info = _read_info(path)
    return None if info is None else int(info["seed"])


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file but for an unfinished last one."""
    if not path.exists():
        return []
    return path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; --out needs a directory")
    if path.is_dir() and _read_info(path) is None and any(entry.name != ".lock" for entry in path.iterdir()):
        raise InputError(f"{path} is not empty and is no run; choose another --out")


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What two identities differ in, a text for each key."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} was {_short(old)}, now {_short(new)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
