"""Feast, imported without typeguard, which parses and rewrites each of its decorated classes anew in every process.

That is two of the three seconds of the import. What it checks at run time, the types of the arguments of Feast's own
constructors, a type checker sees in the definitions.
"""

from __future__ import annotations

import warnings
from typing import Any

import typeguard


def _as_it_is(target: Any = None, **_: Any) -> Any:
    return _as_it_is if target is None else target


_rewriting = typeguard.typechecked
typeguard.typechecked = _as_it_is
try:
    with warnings.catch_warnings():  # Feast's modules have filters of their own, which would undo ours
        import feast as feast
finally:
    typeguard.typechecked = _rewriting
