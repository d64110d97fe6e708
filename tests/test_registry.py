from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from titer import registry
from titer.errors import InputError
from titer.registry import Registry, settings_of


@dataclass(frozen=True)
class Half:
    share: float = 0.5


@dataclass(frozen=True)
class Strict:
    share: float

    def __post_init__(self) -> None:
        if self.share > 1:
            raise InputError(f"share: expected at most 1, got {self.share:g}")


METHODS: Registry[object] = Registry("method", "titer.test", {"half": Half, "strict": Strict})


def test_methods_are_built_from_settings_by_name() -> None:
    assert METHODS.build("half", share=0.25) == Half(0.25)
    assert settings_of(METHODS.build("half")) == {"share": 0.5}
    assert list(METHODS) == ["half", "strict"]
    assert len(METHODS) == 2
    assert "half" in METHODS
    assert "quarter" not in METHODS


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("hlaf", {}, "unknown method 'hlaf'; did you mean 'half'"),
        ("half", {"shrae": 1}, "did you mean 'share'"),
        ("strict", {}, "missing"),
        ("strict", {"share": 2.0}, "expected at most 1, got 2"),
    ],
)
def test_mistakes_are_named(name: str, settings: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        METHODS.build(name, **settings)


def test_plug_ins_join_and_do_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("other", "collections:Counter", "titer.test"),
        EntryPoint("half", "collections:OrderedDict", "titer.test"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    assert list(METHODS) == ["half", "other", "strict"]
    assert METHODS["other"].__name__ == "Counter"
    assert METHODS["half"] is Half
