"""What a section of a page is put together from, whatever it is about."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from titer.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class SectionHead:
    """How every section of a page begins, and the settings that end it: what a reader wants first at the top."""

    title: str
    facts: tuple[str, ...]
    alarms: tuple[str, ...]
    verdicts: tuple[str, ...]
    settings: tuple[Table, ...]


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Args:
        svg: what is shown.
        words: what it shows, for those who do not see it.
        caption: below it.
    """

    svg: Markup
    words: str
    caption: str


@dataclass(frozen=True)
class Part:
    """A part of a section.

    Args:
        title: what it is about.
        text: below the title; may be empty.
        figures: first.
        tables: then.
        folded: and last those that are closed at first.
    """

    title: str
    text: str = ""
    figures: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
