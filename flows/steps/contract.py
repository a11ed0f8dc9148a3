"""The contract of a raw table: which columns, in which order, of which types. What breaks it, in words.

Great Expectations judges values; it passes an empty frame and an all-NaN column, so form and presence are judged here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from statistics import median

from flows.spec import Source

# Types that hold every value of another: contract type -> types that may come instead.
_SMALL = ("TINYINT", "UTINYINT", "SMALLINT", "USMALLINT")
_WIDENING: dict[str, tuple[str, ...]] = {
    "SMALLINT": ("TINYINT", "UTINYINT"),
    "INTEGER": _SMALL,
    "BIGINT": (*_SMALL, "INTEGER", "UINTEGER"),
    "HUGEINT": (*_SMALL, "INTEGER", "UINTEGER", "BIGINT", "UBIGINT"),
    "FLOAT": _SMALL,
    "DOUBLE": (*_SMALL, "INTEGER", "UINTEGER", "BIGINT", "FLOAT"),
    "TIMESTAMP": ("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"),
}
# The index of a data frame as pandas writes it into a parquet file, as it reads it from a CSV file, and as we do.
INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0(\.\d+)*|column0")
_NO_INDEX = "; if it is the index of a data frame, write the file with index=False"
# What is said where all that is wrong may be that the labels are not known yet.
LABELS_TO_COME = (
    "if its labels are still to come, bring them by `evergreen label`, or ingest the period again with them"
)
MANY = 5  # missing columns, of which more are told in one sentence
_ALIKE = 0.5  # share of letters in common from which two names may be one column renamed


def fits(found: str, wanted: str) -> bool:
    """Say whether a column of one DuckDB type can stand for another without losing a value."""
    return found == wanted or found in _WIDENING.get(wanted, ()) or (wanted == "DOUBLE" and found.startswith("DECIMAL"))


def schema_problems(
    source: Source, columns: Mapping[str, str], examples: Mapping[str, str] | None = None, label: str | None = None
) -> list[str]:
    """Return what is wrong with the columns (name -> DuckDB type, in order) of a raw table, one sentence each.

    ``examples`` are values, and where they are, that keep a column from having the contract's type. The column of the
    ``label`` may be missing because nobody knows its values yet.
    """
    shown = {name: f": {example}" for name, example in (examples or {}).items()}
    missing = [name for name in source.columns if name not in columns]
    extra = [name for name in columns if name not in source.columns and name not in source.ignored]
    renamed = _renamed(source, columns, missing, extra)
    problems = [f"column {old!r} is missing, {new!r} is new: renamed?" for old, new in renamed.items()]
    gone = [name for name in missing if name not in renamed]
    if len(gone) > MANY:
        first = ", ".join(map(repr, gone[:MANY]))
        problems.append(
            f"{len(gone)} columns are missing ({first}, …); if these are labels alone, bring them by `evergreen label`"
        )
    else:
        waits = {label: f"; {LABELS_TO_COME}"}
        problems += [f"column {name!r} is missing{waits.get(name, '')}" for name in gone]
    problems += [
        f"column {name!r} is not in the contract{_NO_INDEX if INDEX.fullmatch(name) else ''}"
        for name in extra
        if name not in renamed.values()
    ]
    problems += [
        f"column {name!r} has type {columns[name]}, the contract says {wanted}{shown.get(name, '')}"
        for name, wanted in source.columns.items()
        if name in columns and not fits(columns[name], wanted)
    ]
    if not missing and not extra and not _in_known_order(source, list(columns)):
        found = [name for name in columns if name in source.columns]
        problems.append(f"columns are reordered: {', '.join(found)}; the contract says {', '.join(source.columns)}")
    return problems


def with_examples(problems: list[str], told: Sequence[str]) -> list[str]:
    """Return the sentences on a raw table, each as it was ``told`` with an example, if it was."""
    return [next((one for one in told if one.startswith(f"{problem}: ")), problem) for problem in problems]


def _renamed(source: Source, columns: Mapping[str, str], missing: list[str], extra: list[str]) -> dict[str, str]:
    """Return the likely pairs, old name -> new name: alike in letters or in the same place, and of a fitting type."""
    names, wanted = list(columns), list(source.columns)
    scored = sorted(
        (
            (_likeness(old, new) + (names.index(new) == wanted.index(old)), old, new)
            for old in missing
            for new in extra
            if fits(columns[new], source.columns[old])
        ),
        key=lambda scored_pair: (-scored_pair[0], scored_pair[1:]),
    )
    pairs: dict[str, str] = {}
    for score, old, new in scored:
        if score >= _ALIKE and old not in pairs and new not in pairs.values():
            pairs[old] = new
    return pairs


def _likeness(old: str, new: str) -> float:
    """Return the share of letters that two names have in common, in order."""
    return SequenceMatcher(None, old.lower(), new.lower()).ratio()


def _in_known_order(source: Source, names: list[str]) -> bool:
    """Say whether the columns come in the contract's order, or in that of a known layout, some left out."""
    own = [name for name in names if name in source.columns]
    if own == list(source.columns):
        return True
    for layout in source.layouts:
        rest = iter(layout)
        if all(name in rest for name in names):
            return True
    return False


def count_problem(source: Source, rows: int, usual: list[int]) -> str | None:
    """Return what is wrong with a partition's number of rows, given those of the accepted partitions before it."""
    if not usual:
        return None
    middle = median(usual)
    hint = "if it is right, raise source.row_factor"
    if rows >= source.row_factor * middle:
        return f"{rows:,} rows, {rows / middle:.1f} times the usual {middle:,.0f}; {hint}"
    if rows * source.row_factor <= middle:
        return f"{rows:,} rows, less than 1/{source.row_factor:g} of the usual {middle:,.0f}; {hint}"
    return None
