"""What was really used: digests of ids and of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of a list of texts, order included."""
    return hashlib.sha256("".join(f"{len(text)}:{text}" for text in texts).encode()).hexdigest()
