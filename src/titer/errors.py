"""Every error that titer raises on purpose.

TiterError
├── InputError        the user's input is wrong: one line on stderr, exit status 2
│   └── GuaranteeError    the certificate asked for would claim more than is proven
├── RunError          the run itself failed: one line on stderr, exit status 1
└── PictureError      one picture cannot be used: recorded as failed, the run goes on

Messages say what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 20  # more names than this are not spelled out in a message


class TiterError(Exception):
    """Base of all errors that titer raises on purpose."""


class InputError(TiterError):
    """The user's input is wrong."""


class GuaranteeError(InputError):
    """The certificate asked for would claim more than is proven."""


class RunError(TiterError):
    """The run itself failed, through no fault of the command."""


class PictureError(TiterError):
    """One picture cannot be used; the run records it as failed and goes on."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist, offering the nearest one that does."""
    names = sorted(known)
    folded = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
    listed = f" (known: {', '.join(names) or 'none'})" if len(names) <= _LISTED else ""
    return InputError(f"unknown {kind} {name!r}{hint}{listed}")
