"""The file of an estimator, written by skops so that the same fitted estimator is the same bytes."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from flows.errors import ContractError
from flows.steps.files import replacing
from flows.steps.trusted import one_line

SCHEMA = "schema.json"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold
# Attributes of scikit-learn's text vectorizers that hold an address, by which they know that they have checked a parameter.
ADDRESSES = ("_stop_words_id",)


def write_estimator(estimator: Any, path: Path, name: str) -> Path:
    """Write a fitted estimator in skops, atomically; ``name`` is what the error calls it.

    Raises ContractError if skops cannot write it.
    """
    import skops.io

    try:
        archive = skops.io.dumps(estimator)
    except (TypeError, ValueError, AttributeError, NotImplementedError, RecursionError) as error:
        raise ContractError(
            f"{name}: skops cannot write this estimator ({one_line(error)}); "
            "use scikit-learn's own parts or importable classes, and no lambdas"
        ) from error
    with replacing(path) as temporary:
        rewrite(archive, temporary)
    return path


def rewrite(archive: bytes, path: Path) -> None:
    """Write an archive of skops anew, deflated, without what differs from one process to the next.

    skops names objects and members by their addresses in memory, and a zip holds the time of writing: addresses become
    numbers in the order in which they come, times the first of 1980. Attributes that hold an address become 0.
    """
    with zipfile.ZipFile(BytesIO(archive)) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        members = [name for name in source.namelist() if name != SCHEMA]
        names = {name: f"{number}{Path(name).suffix}" for number, name in enumerate(members)}
        for name in members:
            target.writestr(_entry(names[name]), source.read(name))
        schema = _renamed(json.loads(source.read(SCHEMA)), names, {})
        target.writestr(_entry(SCHEMA), json.dumps(schema, indent=2))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _renamed(node: Any, names: dict[str, str], numbers: dict[int, int]) -> Any:
    """Return a part of the schema with other names of files and other numbers of objects; who shares one still does."""
    if isinstance(node, list):
        return [_renamed(one, names, numbers) for one in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "__id__" and isinstance(value, int):
            found[key] = numbers.setdefault(value, len(numbers))
        elif key == "file" and isinstance(value, str):
            found[key] = names.get(value, value)
        elif key in ADDRESSES and isinstance(value, dict) and value.get("is_json"):
            found[key] = _renamed(value | {"content": "0"}, names, numbers)
        else:
            found[key] = _renamed(value, names, numbers)
    return found
