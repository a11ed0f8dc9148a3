"""A version made again from its record alone, in a folder that is thrown away, and compared with what was registered.

Ledger, registry, feature tables and partitions are only read. What differs is looked for first: it costs little.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import EvergreenError
from flows.ledger import Partition
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import feature_record, feature_store, fitting, metrics, storage, training_set
from flows.steps import reproduction_causes as causes
from flows.steps.bundle import MODEL, PACKAGES, Bundle, open_bundle
from flows.steps.evaluation import PARTS
from flows.steps.files import scratch, sha256_of
from flows.steps.lineage import Lineage, code
from flows.steps.model_file import write_estimator
from flows.steps.reproduction_causes import Cause
from flows.steps.version_record import VersionRecord

if TYPE_CHECKING:
    from flows.steps.training_set import TrainingSet

ESTIMATOR_FILE = "estimator file"


class Check(Frozen):
    """One thing that was made again, beside what was recorded."""

    what: str
    same: bool
    recorded: str
    here: str


class Examined(Frozen):
    """What is known before anything is made: the recorded spec, the partitions as they lie here, what differs."""

    spec: ModelSpec
    partitions: tuple[Partition, ...]
    causes: tuple[Cause, ...]


class Reproduction(Frozen):
    """What came of it: ``same`` if all that was compared is that of the version, to the bit.

    ``causes`` is all that differs, whether or not it showed; ``made`` is False if nothing could be made.
    """

    model: str
    version: int
    same: bool
    made: bool
    commit: str | None
    checks: tuple[Check, ...]
    causes: tuple[Cause, ...]


def examine(settings: Settings, spec: ModelSpec, engine: Engine, record: VersionRecord) -> Examined:
    """Compare the record of a version with what is here: data, features, code, libraries, threads. Nothing is made.

    ``spec`` is today's, for a record that does not hold its own.
    """
    lineage, found = record.lineage, []
    if record.origin:
        found.append(
            Cause(kind="record", what=f"copied from another place ({record.origin}); its data is there", fatal=True)
        )
    old, problem = _recorded_spec(lineage, spec)
    found += problem
    landed = storage.at_hand(settings, ledger.list_partitions(engine, spec.name), landed=True)
    storage.pull(settings, settings.features(spec.name))
    found += causes.of_partitions(lineage, landed)
    found += causes.of_feature_files(settings.features(spec.name), lineage.feature_files)
    if not lineage.feature_files:
        found.append(Cause(kind="record", what="it is from before files of features were recorded: today's are taken"))
    try:
        here = code(old, lineage.estimator)
    except EvergreenError as error:
        found.append(Cause(kind="code", what=str(error), fatal=True))
    else:
        found += causes.of_code(lineage.code, here)
        found += causes.of_libraries(*_libraries(settings, record, here))
        found += causes.of_machine(lineage.code, here, lineage.threads)
    names = {(one.key, one.revision) for one in lineage.partitions}
    used = tuple(
        one
        for one in landed
        if (one.key, one.revision) in names and one.accepted_uri and Path(one.accepted_uri).is_file()
    )
    if not used:
        found.append(Cause(kind="data", what="no partition of the record is here", fatal=True))
    return Examined(spec=old, partitions=used, causes=tuple(found))


def remake(settings: Settings, record: VersionRecord, examined: Examined) -> Reproduction:
    """Make a version again as far as it can be made, and compare training set, estimator, predictions and error."""
    found = list(examined.causes)
    checks: list[Check] = []
    if not any(cause.fatal for cause in found):
        with scratch(settings.home, "reproduce") as folder:
            try:
                checks, more = _remake(settings, record, examined, folder)
                found += more
            except EvergreenError as error:
                found.append(Cause(kind="code", what=f"it could not be made: {error}", fatal=True))
    same = bool(checks) and all(check.same for check in checks)
    if checks and not same and not found:
        found.append(_unexplained(checks))
    return Reproduction(
        model=record.version.model, version=record.version.version, same=same, made=bool(checks),
        commit=record.lineage.code.commit, checks=tuple(checks), causes=tuple(found),
    )  # fmt: skip


def _remake(
    settings: Settings, record: VersionRecord, examined: Examined, folder: Path
) -> tuple[list[Check], list[Cause]]:
    spec, lineage = examined.spec, record.lineage
    again = settings.apart(folder)
    _link_features(settings, again, spec, lineage)
    feature_store.apply_definitions(again, spec)
    store = feature_store.open_store(again)
    views = feature_record.view_records(store, spec)
    found = causes.of_views(lineage.views, views) if lineage.views else []
    ids = tuple(one.id for one in examined.partitions)
    window = lineage.window.model_copy(update={"partition_ids": ids})
    data = training_set.build(again, store, spec, list(examined.partitions), window, folder)
    estimator = fitting.fit(spec, data, lineage.params, lineage.estimator)
    checks = [
        _equal("feature definitions", lineage.feature_definitions_sha256, feature_record.definition_hash(store, spec)),
        _equal("training set", lineage.training_set_sha256, data.digest),
        _equal("rows, train and judge", *(f"{one.train_rows:,} and {one.judge_rows:,}" for one in (lineage, data))),
    ]
    try:
        with storage.folder(settings, record.version.folder) as kept:
            bundle = open_bundle(kept, record.version.digest, settings.trusted_types)
    except EvergreenError as error:
        return checks, [*found, Cause(kind="record", what=f"the version itself cannot be opened: {error}", fatal=True)]
    written = write_estimator(estimator, folder / MODEL, lineage.estimator)
    checks.append(_equal(ESTIMATOR_FILE, bundle.manifest.model_sha256, sha256_of(written)))
    checks += _predictions(spec, record, bundle, estimator, data)
    return checks, found


def _unexplained(checks: Sequence[Check]) -> Cause:
    """Return where the difference must come from if nothing of the record differs from what is here."""
    other = {check.what for check in checks if not check.same}
    if other == {ESTIMATOR_FILE}:
        text = "the estimator's file alone: it predicts the same, and keeps beside that what is another in each process"
    elif "training set" in other:
        text = "the training set: joined from the same files by the same code it has other values; look for what has no order"
    else:
        text = "fitting: the same rows, code, libraries and threads give another estimator; give it a random_state"
    return Cause(kind="code", what=text)


def _predictions(
    spec: ModelSpec, record: VersionRecord, bundle: Bundle, estimator: Any, data: TrainingSet
) -> list[Check]:
    """Compare what the version and what was made now say of every row, and the error that was recorded."""
    checks = []
    for part in PARTS:
        rows = training_set.read_part(data, part)
        inputs = training_set.matrix(rows, data.features)
        now = metrics.predict(estimator, spec.task, inputs)
        try:
            was = bundle.scores(inputs)
        except EvergreenError as error:
            checks.append(Check(what=f"predictions, {part}", same=False, recorded=f"cannot be made: {error}", here=""))
            continue
        same = was.shape == now.shape and was.tobytes() == now.tobytes()
        gap = "all of them, to the bit" if same else _gap(was, now)
        checks.append(
            Check(what=f"predictions, {part}", same=same, recorded=f"{len(was):,} rows of the version", here=gap)
        )
        if part == "judge":
            classes = getattr(estimator, "classes_", None)
            losses = metrics.row_losses(spec.metric, rows["label"].to_numpy(), now, classes)
            figures = record.evidence["error"], metrics.error(spec.metric, losses)
            checks.append(_equal(f"{spec.metric.error}, judge", *(repr(float(figure)) for figure in figures)))
    return checks


def _gap(was: Any, now: Any) -> str:
    if was.shape != now.shape:
        return f"of another shape: {was.shape} and {now.shape}"
    other = (was != now).reshape(len(was), -1).any(axis=1)
    return f"{int(other.sum()):,} differ, by up to {float(np.abs(was - now).max()):.3g}"


def _link_features(settings: Settings, again: Settings, spec: ModelSpec, lineage: Lineage) -> None:
    """Put the recorded files of the feature tables, and no later ones, where a store of its own finds them."""
    source, target = settings.features(spec.name), again.features(spec.name)
    if lineage.feature_files:
        names = [Path(one.view, one.name) for one in lineage.feature_files]
    else:
        names = [path.relative_to(source) for path in source.rglob("*.parquet")]
    for name in names:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _link(source / name, target / name)
    for view in spec.entities:
        if not any((target / view).rglob("*.parquet")):
            raise EvergreenError(f"no file of the feature table {view} is left; restore them from a backup")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _recorded_spec(lineage: Lineage, today: ModelSpec) -> tuple[ModelSpec, Sequence[Cause]]:
    if not lineage.spec:
        return today, [Cause(kind="record", what="it is from before the spec was recorded: today's is taken")]
    try:
        return ModelSpec.model_validate(lineage.spec), []
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        return today, [Cause(kind="code", what=f"the recorded spec is no spec any more ({place}): today's is taken")]


def _libraries(settings: Settings, record: VersionRecord, here: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the versions of Python and libraries as recorded, by lineage and bundle, and as they are here."""
    lineage = record.lineage.code
    recorded = {"python": lineage.python, **lineage.libraries}
    try:
        with storage.folder(settings, record.version.folder) as kept:
            bundle = open_bundle(kept, record.version.digest, settings.trusted_types)
        recorded = {**bundle.manifest.versions, **recorded}
    except EvergreenError:  # told when it is compared with
        pass
    now = {"python": here.python, **{name: metadata.version(name) for name in PACKAGES}, **here.libraries}
    return recorded, now


def _equal(what: str, recorded: str, here: str) -> Check:
    return Check(what=what, same=recorded == here, recorded=recorded, here=here)
