"""Why a version may not come out again as it was: what its record says, beside what is here. Pure, but for reading files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flows.ledger import Partition
from flows.spec import Frozen
from flows.steps.feature_record import FeatureFile, ViewRecord
from flows.steps.files import sha256_of
from flows.steps.in_memory import connect
from flows.steps.lineage import Code, Lineage

SHORT = 12  # digits of a hash, for people


class Cause(Frozen):
    """One thing that is not as it was; None where it is not there. ``fatal``: without it nothing can be made."""

    kind: Literal["data", "features", "code", "library", "threads", "record"]
    what: str
    recorded: str | None = None
    here: str | None = None
    fatal: bool = False


def of_code(recorded: Code, here: Code) -> list[Cause]:
    """Return which modules are not those that ran: by file where the record has them, else by the hash of all."""
    if not recorded.files:
        if recorded.sources_sha256 == here.sources_sha256:
            return []
        text = "the modules that make a version (the record is from before they were named one by one)"
        return [_hashes("code", text, recorded.sources_sha256, here.sources_sha256)]
    return [
        _hashes("code", f"module {name}", recorded.files.get(name), here.files.get(name))
        for name in sorted({*recorded.files, *here.files})
        if recorded.files.get(name) != here.files.get(name)
    ]


def of_libraries(recorded: Mapping[str, str], here: Mapping[str, str]) -> list[Cause]:
    """Return which libraries, and which Python, are of another version."""
    return [
        Cause(kind="library", what=name, recorded=version, here=here.get(name))
        for name, version in recorded.items()
        if here.get(name) != version
    ]


def of_machine(recorded: Code, here: Code, threads: int) -> list[Cause]:
    """Return how the threads that train differ, and the instructions that numbers are computed with."""
    if recorded.machine is None or here.machine is None:
        return []
    was, now = recorded.machine, here.machine
    found = []
    if min(threads, was.cores) != min(threads, now.cores):
        counts = [f"{min(threads, one.cores)} of {threads} ({one.cores} cores)" for one in (was, now)]
        found.append(Cause(kind="threads", what="threads that train", recorded=counts[0], here=counts[1]))
    kinds = [f"{one.system} {one.processor} {' '.join(one.instructions)}".strip() for one in (was, now)]
    if kinds[0] != kinds[1]:
        found.append(Cause(kind="threads", what="processor", recorded=kinds[0], here=kinds[1]))
    return found


def of_partitions(lineage: Lineage, landed: Iterable[Partition]) -> list[Cause]:
    """Return which partitions are gone or altered: in the ledger, in their landed rows, in the file of accepted rows."""
    known = {(one.key, one.revision): one for one in landed}
    found: list[Cause] = []
    for one in (*lineage.past, *lineage.partitions):
        name, here = f"partition {one.key} r{one.revision}", known.get((one.key, one.revision))
        if here is None or not here.accepted_uri:
            found.append(_hashes("data", f"{name}, in the ledger", one.digest, None))
            continue
        if here.digest != one.digest:
            found.append(_hashes("data", f"{name}, in the ledger", one.digest, here.digest))
        rows = landed_digest(Path(here.uri))
        if rows != one.digest:
            found.append(_hashes("data", f"{name}, landed rows in {here.uri}", one.digest, rows))
        file = digest_at(Path(here.accepted_uri))
        if file is None or (one.accepted_sha256 and file != one.accepted_sha256):
            found.append(_hashes("data", f"{name}, accepted rows in {here.accepted_uri}", one.accepted_sha256, file))
    return found


def of_feature_files(folder: Path, files: Sequence[FeatureFile]) -> list[Cause]:
    """Return which files of the feature tables are gone or altered."""
    return [
        _hashes("features", f"feature table {one.view}, file {one.name}", one.sha256, here)
        for one in files
        if (here := digest_at(folder / one.view / one.name)) != one.sha256
    ]


def of_views(recorded: Sequence[ViewRecord], here: Sequence[ViewRecord]) -> list[Cause]:
    """Return which feature views are defined otherwise."""
    was, now = ({one.name: one.sha256 for one in views} for views in (recorded, here))
    return [
        _hashes("features", f"definition of view {name}", was.get(name), now.get(name))
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]


def digest_at(path: Path) -> str | None:
    """Return the sha256 of a file, None if it cannot be read."""
    try:
        return sha256_of(path)
    except OSError:
        return None


def landed_digest(path: Path) -> str | None:
    """Return the digest of the rows of a landed file, as landing took it; None if it cannot be read."""
    import duckdb

    from flows.steps.reading import describe
    from flows.steps.row_hash import digest_of

    values: dict[str, Any] = {"uri": str(path)}
    try:
        with connect() as connection:
            columns = describe(connection, "SELECT * FROM read_parquet($uri)", values)
            return digest_of(connection, columns, "FROM read_parquet($uri)", values)[0]
    except duckdb.Error:
        return None


def _hashes(kind: Any, what: str, recorded: str | None, here: str | None) -> Cause:
    return Cause(kind=kind, what=what, recorded=_short(recorded), here=_short(here))


def _short(digest: str | None) -> str | None:
    return f"sha256 {digest[:SHORT]}" if digest else None
