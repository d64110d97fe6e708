"""Digests tell apart whatever differs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from titer.data.fingerprint import digest

TEXTS = st.lists(st.text(), max_size=5)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_different_lists_have_different_digests(one: list[str], other: list[str]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_the_cuts_and_the_order_count() -> None:
    assert len({digest(texts) for texts in ([], [""], ["ab"], ["a", "b"], ["b", "a"], ["1:a"], ["a1:", "b"])}) == 7
