"""What monitoring compares with: a model's own training and judging rows in a few numbers, kept beside its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flows.errors import ContractError
from flows.ledger import Promotion
from flows.spec import Frozen, ModelSpec
from flows.steps import drift, performance, storage
from flows.steps.answered import with_answers
from flows.steps.files import write_text

if TYPE_CHECKING:
    from flows.steps.evaluation import Predicted
    from flows.steps.training_set import TrainingSet

FILE = "drift.json"  # in the bundle's folder


class Reference(Frozen):
    """The distributions of the rows that were fitted, and the answers to and errors on those that judged."""

    drift: drift.Reference
    expected: performance.Expected


def build(spec: ModelSpec, data: TrainingSet, estimator: Any, train: Predicted, judge: Predicted) -> Reference:
    """Return the reference of a fitted estimator: features, prediction and label of its training set."""
    classes = getattr(estimator, "classes_", None) if spec.task != "regression" else None
    trained, judged = (with_answers(part.rows, part.scores, classes) for part in (train, judge))
    known = drift.reference(trained, [*data.features, drift.LABEL])
    *features, label = known.columns
    columns = (*features, *drift.held_out(judged, trained), label)
    known = known.model_copy(update={"columns": columns})
    return Reference(drift=known, expected=performance.expect(spec, judged))


def write(reference: Reference, folder: Path) -> Path:
    """Write a reference into a bundle's folder, atomically."""
    return write_text(folder / FILE, reference.model_dump_json(indent=1) + "\n")


def write_for(
    spec: ModelSpec, data: TrainingSet, estimator: Any, train: Predicted, judge: Predicted, folder: Path
) -> Path:
    """Build the reference of a fitted estimator and write it beside its bundle."""
    return write(build(spec, data, estimator, train, judge), folder)


def read(spec: ModelSpec, champion: Promotion) -> Reference:
    """Read the reference from the champion's bundle.

    Without one (the bundle came from elsewhere) no column is known, and the error to expect is that of the promotion's
    evidence. Raises ContractError if the file is not a reference.
    """
    try:
        text = storage.read(f"{champion.model_uri}/{FILE}").decode()
    except FileNotFoundError:
        error = champion.evidence.get("error")
        expected = performance.plain(float("nan") if error is None else float(error), spec.metric)
        return Reference(drift=drift.Reference(rows=0, start=None, end=None, columns=()), expected=expected)
    try:
        return Reference.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ContractError(
            f"{champion.model_uri}/{FILE}: {place}: {problem['msg']}; train and promote again to write it anew"
        ) from error
