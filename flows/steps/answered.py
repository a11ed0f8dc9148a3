"""What a model says of rows, as the prediction log has it: the answer and, of classes, the probability of each by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from flows.steps.metrics import Floats

PREDICTION: Final = "prediction"
PROBABILITIES: Final = "probabilities"
_ENTRIES = pa.list_(pa.struct([("key", pa.string()), ("value", pa.float64())]))


def with_answers(rows: pa.Table, scores: Floats, classes: Sequence[Any] | None) -> pa.Table:
    """Return rows with a model's answers: values (n,), or the likeliest class and all probabilities (n, classes)."""
    if classes is None:
        return rows.append_column(PREDICTION, pa.array(scores))
    names = pa.array([str(one) for one in classes])
    ends = pa.array(np.arange(len(scores) + 1, dtype=np.int32) * len(names))
    keys = names.take(pa.array(np.tile(np.arange(len(names)), len(scores))))
    shares = pa.MapArray.from_arrays(ends, keys, pa.array(scores.ravel()))
    best = pa.array(np.asarray(classes)[scores.argmax(axis=1)])
    return rows.append_column(PREDICTION, best).append_column(PROBABILITIES, shares)


def probabilities_of(rows: pa.Table) -> tuple[list[str], Floats]:
    """Return the classes by name and the logged probability of each, shape (n, classes).

    A class that the answering version did not know has 0; what was not logged, or is no number, is NaN.
    """
    logged = rows[PROBABILITIES].cast(_ENTRIES).combine_chunks()
    entries = pc.list_flatten(logged)
    keys, values = pc.struct_field(entries, "key"), pc.struct_field(entries, "value")
    # Of no answers at all there is one class that reads as a number too, as classes may be, and that no label is of.
    names = pc.unique(keys).sort() if len(keys) else pa.array(["nan"])
    shares = np.zeros((rows.num_rows, len(names)))
    shares[logged.is_null().to_numpy(zero_copy_only=False)] = np.nan
    place = pc.index_in(keys, value_set=names).to_numpy()
    shares[pc.list_parent_indices(logged).to_numpy(), place] = values.to_numpy(zero_copy_only=False)
    return names.to_pylist(), shares
