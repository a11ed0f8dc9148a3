"""The files of a new model: rendered from a draft, every name in them quoted, and written together or not at all."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.errors import ContractError, UnavailableError, UsageError
from flows.spec import Frozen
from flows.steps.new.draft import Draft, Given
from flows.steps.new.table import plain
from flows.steps.new.wanted import span_text

LINE = 120


class Place(Frozen):
    """Where a model's files go: its folder, the file of its definitions and that of its test, and their modules."""

    folder: Path
    definitions: Path
    test: Path
    package: str
    definitions_module: str


def place_of(name: str, into: Path | None) -> Place:
    """Return where a new model goes: into this project, or into a team's package folder; raises UsageError if it is taken."""
    if into is None:
        root = Path(__file__).resolve().parents[3]
        if not (root / "pyproject.toml").is_file():
            raise UsageError("Evergreen is installed as a library here; name your package of models with --into FOLDER")
        place = Place(
            folder=root / "flows" / "models" / name, definitions=root / "feature_repo" / f"{name}.py",
            test=root / "tests" / "models" / f"test_model_{name}.py", package=f"flows.models.{name}",
            definitions_module=f"feature_repo.{name}",
        )  # fmt: skip
    else:
        folder = into.expanduser().resolve()
        package = f"{_package_of(folder)}.{name}"
        place = Place(
            folder=folder / name, definitions=folder / name / "definitions.py",
            test=folder / name / f"test_model_{name}.py", package=package, definitions_module=f"{package}.definitions",
        )  # fmt: skip
    for path in (place.folder, place.definitions, place.test):
        if path.exists():
            raise UsageError(f"{path} is there already; choose another name, or remove it first")
    if importlib.util.find_spec(place.package.rpartition(".")[0]) and importlib.util.find_spec(place.package):
        raise UsageError(f"there is a package {place.package} already; choose another name")
    return place


def _package_of(folder: Path) -> str:
    """Return the dotted name by which Python imports a folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; make it first: it becomes a package of models")
    roots = sorted({Path(entry or ".").resolve() for entry in [*sys.path, ""]}, key=lambda path: -len(path.parts))
    for root in roots:
        if folder != root and folder.is_relative_to(root):
            parts = folder.relative_to(root).parts
            if all(part.isidentifier() for part in parts):
                return ".".join(parts)
    raise UsageError(f"{folder} cannot be imported; name a folder below the current one or below one of PYTHONPATH")


def root_to_name(into: Path, package: str) -> Path | None:
    """Return the folder from which a team's package is imported, if it must be put on PYTHONPATH; None if Python knows it."""
    root = into.expanduser().resolve().parents[package.count(".") - 1]
    return None if root in {Path(entry).resolve() for entry in sys.path if entry} else root


def render(draft: Draft) -> dict[str, str]:
    """Return the text of each file by its template's name."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,  # noqa: S701 (Python, not HTML)
    )  # fmt: skip
    environment.filters.update(py=code, number=number, delta=delta)
    environment.globals.update(
        sequence=sequence,
        mapping=mapping,
        describe=describe,
        variable=variable,
        text_feature=text_feature,
        in_scratch=in_scratch,
    )
    number_task = draft.task == "regression"
    keys = [one for one in draft.given if any(one.name in view.keys for view in draft.views)]
    types = {"UnixTimestamp", "Float64", "Int64"}
    types |= {"String"} if draft.texts or any(one.type == "string" for one in [*draft.features, *keys]) else set()
    classes = [share.value for share in draft.classes]
    example = classes[0] if classes else None
    other = classes[1] if len(classes) > 1 else (0 if example == 1 else 1) if isinstance(example, int) else "other"
    values: dict[str, Any] = {
        "d": draft, "keys": keys, "zoned": draft.time_form == "instant" and draft.zone != "UTC",
        "team": not draft.definitions.startswith("feature_repo."),
        "types": sorted(types), "words": "days" if draft.unit == "d" else "hours",
        "ago": _ago(draft), "gap_of": f"rows of one {draft.views[1].keys[0]}" if draft.views[1:] else "rows",
        "added": _added(draft), "time_code": _time_code(draft), "seen": [one for one in draft.given if one.seen],
        "classes": draft.all_classes, "estimator": f"HistGradientBoosting{'Regressor' if number_task else 'Classifier'}",
        "mixin": "RegressorMixin" if number_task else "ClassifierMixin",
        "example_labels": "[1.0, 2.0, 3.0, 4.0]" if number_task else f"[{code(example)}] * 4",
        "two_labels": "[1.0, 2.0]" if number_task else f"[{code(example)}, {code(other)}]",
    }  # fmt: skip
    names = ("spec", "source", "expectations", "features", "estimator", "definitions", "test")
    found = {name: environment.get_template(f"{name}.py.j2").render(values) for name in names}
    for name, text in found.items():
        compile(text, f"{draft.name}/{name}.py", "exec")  # what is written is Python at least
    return found


def write(place: Place, files: Mapping[str, str]) -> list[Path]:
    """Write the files of a model and return their paths, the folder's first; on an error nothing is left.

    The folder appears last and by one rename, and it is what makes the model known.
    """
    own = {"spec": "spec.py", "source": "source.py", "expectations": "expectations.py", "features": "features.py"}
    own["estimator"] = "estimator.py"
    beside = {"definitions": place.definitions, "test": place.test}
    made: list[Path] = []
    try:
        place.folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{place.folder.name}.", dir=place.folder.parent))
        scratch.chmod(0o755)
        try:
            (scratch / "__init__.py").write_text("")
            for name, file in own.items():
                (scratch / file).write_text(files[name], encoding="utf-8")
            for name, path in beside.items():
                if path.parent == place.folder:
                    (scratch / path.name).write_text(files[name], encoding="utf-8")
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("x", encoding="utf-8") as file_:  # another `new` of the same name loses here
                        made.append(path)
                        file_.write(files[name])
            os.rename(scratch, place.folder)  # noqa: PTH104 (fails where the folder is there and not empty)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            for path in made:
                path.unlink(missing_ok=True)
            raise
    except FileExistsError as error:
        raise UsageError(f"{error.filename} is there already; choose another name, or remove it first") from error
    except OSError as error:
        raise UnavailableError(
            f"{place.folder} cannot be written ({error.strerror}); nothing was left behind"
        ) from error
    inside = sorted(place.folder.glob("*.py"))
    return [*(path for path in inside if path.stat().st_size), *made]


def check(place: Place, draft: Draft) -> None:
    """Import what was written in a process of its own, as everything else will; raises ContractError, and removes it."""
    import subprocess

    script = (
        "import importlib, sys; s = importlib.import_module(sys.argv[1] + '.spec').spec; "
        "from flows.steps.event_rows import compiled; compiled(s); "
        "from flows.lookup import resolve; [resolve(p) for p in (s.feature_tables, s.estimator, s.search_space)]; "
        "importlib.import_module(s.definitions)"
    )
    roots = [str(place.folder.parents[place.package.count(".")]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", script, place.package], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, roots)), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(place.folder, ignore_errors=True)
        for path in (place.definitions, place.test):
            path.unlink(missing_ok=True)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ContractError(f"{draft.name}: what was written does not work ({last[:300]}); nothing is left of it")


# --- Python text --------------------------------------------------------------------------------------------------


def code(value: Any) -> str:
    """Return a value as Python: a text in double quotes unless single ones need fewer escapes, as the formatter does."""
    if not isinstance(value, str):
        return repr(value)
    if '"' in value and value.count("'") < value.count('"'):
        inner = json.dumps(value).replace('\\"', '"')[1:-1].replace("'", "\\'")
        return "'" + _escaped(inner, value) + "'"
    return '"' + _escaped(json.dumps(value)[1:-1], value) + '"'


def _escaped(ascii_text: str, value: str) -> str:
    """Return the text with its letters as they are, where they cannot be taken for others, and escapes for the rest."""
    found = ascii_text
    for sign in set(value):
        if ord(sign) > 127:
            escape = json.dumps(sign)[1:-1]
            short = f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"
            readable = unicodedata.category(sign)[0] == "L" and (
                0xC0 <= ord(sign) < 0x180 or 0x3040 <= ord(sign) < 0xD7B0
            )
            found = found.replace(escape, sign if readable else short)
    return found


def number(value: float) -> str:
    """Return a bound as Python, without a fraction where there is none."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def delta(value: timedelta) -> str:
    """Return a length of time as Python, in the largest unit that is whole."""
    seconds = value.total_seconds()
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds % size == 0:
            return f"timedelta({unit}={int(seconds // size)})"
    return f"timedelta(seconds={seconds:g})"


def sequence(items: Sequence[str], before: int) -> str:
    """Return texts as a tuple, on one line; ``before`` is how much of the line is taken."""
    inner = ", ".join(map(code, items))
    text = f"({inner},)" if len(items) == 1 else f"({inner})"
    if before + len(text) + 2 <= LINE:
        return text
    indent = " " * 8
    return "(\n" + "".join(f"{indent}{code(item)},\n" for item in items) + " " * 4 + ")"


def mapping(items: Mapping[str, Any]) -> str:
    """Return a short dictionary as Python."""
    return "{" + ", ".join(f"{code(key)}: {code(value)}" for key, value in items.items()) + "}"


def variable(model: str, key: str) -> str:
    """Return how the entity of a key is called in the definitions."""
    return f"{model}_{plain(key)}_key"


def text_feature(one: Given) -> str:
    """Return the entry of a text among the features of a request, as the formatter breaks it."""
    name, texts = code(one.feature), f'["" if pd.isna(text) else str(text) for text in inputs[{code(one.name)}]]'
    line, inner = f"        {name}: np.array({texts}, dtype=object),", f"            {texts}, dtype=object"
    if len(line) <= LINE:
        return line
    inner = inner if len(inner) <= LINE else f"            {texts},\n            dtype=object,"
    return f"        {name}: np.array(\n{inner}\n        ),"


def in_scratch(origin: str) -> str:
    """Return the comment that tells the linter that a table in a scratch folder is meant."""
    return "  # noqa: S108" if origin.startswith(("/tmp/", "/var/tmp/", "/dev/shm/")) else ""  # noqa: S108


def describe(one: Given) -> str:
    """Return what is said of a request field."""
    words = {"int": "Yes is 1, no is 0" if one.flag else "A whole number", "float": "A number", "string": "A text"}[
        one.type
    ]
    return f"{words}, column {one.raw} of the table" if one.raw != one.name else f"{words}, as in the table"


def _time_code(draft: Draft) -> str:
    columns = [f"raw[{code(name)}]" for name in draft.time_columns]
    if draft.time_form == "ordinal":
        assert draft.every is not None
        return f'START + ({columns[0]} * {round(draft.every.total_seconds())}).as_interval("s")'
    if draft.time_form == "instant" and draft.zone != "UTC":
        return f"timezone({code(draft.zone)}, {columns[0]}.cast(\"timestamp('UTC')\"))"
    if draft.time_form == "date and hour":
        return f'{columns[0]}.cast("timestamp") + {columns[1]}.as_interval("h")'
    return f'{columns[0]}.cast("timestamp")' if draft.time_form in ("date", "instant") else ""


def _ago(draft: Draft) -> str:
    """Return how long ago the shorter window begins, in words, and what rows of then are good for."""
    if draft.short % timedelta(days=7):
        return f"{span_text(draft.short)} ago was"
    weeks = draft.short // timedelta(days=7)
    return f"{'a week' if weeks == 1 else f'{weeks} weeks'} ago was, for what goes by the day of the week"


def _added(draft: Draft) -> list[tuple[str, str]]:
    """Return the columns that the rows get, name and code: the time, and plain copies of what is called otherwise."""
    found = [(draft.event_time, "time")] if draft.time_form != "time" else []
    if draft.label != draft.label_raw or draft.label_flag:
        found.append((draft.label, f"raw[{code(draft.label_raw)}]" + ('.cast("int64")' if draft.label_flag else "")))
    changed = [one for one in draft.given if one.name != one.raw or one.flag]
    found += [(one.name, f"raw[{code(one.raw)}]" + ('.cast("int64")' if one.flag else "")) for one in changed]
    return found
