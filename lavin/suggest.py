"""The nearest valid name, for errors about a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """``unknown model 'lavin-tny'; did you mean 'lavin-tiny'? known: lavin-tiny, ...``"""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return f"unknown {kind} '{name}'{hint} known: {', '.join(known) or 'none'}"
