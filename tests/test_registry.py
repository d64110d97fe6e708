from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Literal

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


@dataclass(frozen=True)
class Typed:
    steps: int = 1
    rate: float | None = None
    sigmas: tuple[float, ...] | None = None
    fast: bool = False
    words: str = ""
    mode: Literal["a", "b"] = "a"


METHODS: Registry[object] = Registry("method", "titer.test", {"half": Half, "strict": Strict})
TYPED: Registry[object] = Registry("method", "titer.test", {"typed": Typed})


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


@pytest.mark.parametrize(
    ("settings", "built"),
    [
        ({"rate": 2}, Typed(rate=2.0)),
        ({"rate": None}, Typed()),
        ({"sigmas": None}, Typed()),
        ({"words": 50}, Typed(words="50")),
        ({"sigmas": 0.25}, Typed(sigmas=(0.25,))),
        ({"sigmas": [1, 0.5]}, Typed(sigmas=(1.0, 0.5))),
        ({"mode": "c"}, Typed(mode="c")),  # type: ignore[arg-type]
    ],
)
def test_values_become_what_their_field_is(settings: dict[str, object], built: Typed) -> None:
    assert TYPED.build("typed", **settings) == built
    assert repr(TYPED.build("typed", **settings)) == repr(built)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": "often"}, "'typed': steps: expected a whole number, got 'often'"),
        ({"steps": 1.5}, "steps: expected a whole number, got 1.5"),
        ({"steps": True}, "steps: expected a whole number, got True"),
        ({"rate": "fast"}, "rate: expected a number, got 'fast'"),
        ({"rate": float("nan")}, "rate: expected a number, got nan"),
        ({"sigmas": ["much"]}, "sigmas: expected a number, got 'much'"),
        ({"sigmas": "0.1"}, "sigmas: expected a number, got '0.1'"),
        ({"fast": 1}, "fast: expected true or false, got 1"),
        ({"words": 1.5}, "words: expected a text, got 1.5"),
    ],
)
def test_values_of_another_type_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TYPED.build("typed", **settings)


def test_plug_ins_join_and_do_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("other", "collections:Counter", "titer.test"),
        EntryPoint("half", "collections:OrderedDict", "titer.test"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    assert list(METHODS) == ["half", "other", "strict"]
    assert METHODS["other"].__name__ == "Counter"
    assert METHODS["half"] is Half
