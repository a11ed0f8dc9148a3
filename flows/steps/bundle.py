"""The model bundle: a folder that holds an estimator in skops, its compiled form, and in ``serving.json`` what serves it.

Opening one trusts nothing: hashes first, then our list of types, then the golden rows must come out as when fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from flows.errors import ContractError, TamperedError
from flows.steps import compiled, metrics
from flows.steps.compiled import COMPILED, MAX_COMPILED_BYTES, Compiled
from flows.steps.manifest import SERVING, Manifest, parse_manifest
from flows.steps.trusted import TRUSTED_TYPES, check_archive, one_line, read_bytes

if TYPE_CHECKING:
    import pandas as pd

    from flows.steps.metrics import Floats

MODEL = "model.skops"
TOLERANCE = 1e-9  # relative, of the golden rows
PACKAGES = ("scikit-learn", "numpy", "scipy", "skops")
MAX_MODEL_BYTES = 2**30
MAX_SERVING_BYTES = 2**24


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; for serving alone it may be opened without its estimator if it has a compiled form."""

    manifest: Manifest
    estimator: Any
    compiled: Compiled | None = None

    def answers(self, columns: Sequence[Sequence[Any]]) -> Floats:
        """Return what ``scores`` does, of one sequence of values a feature, by the compiled form if there is one."""
        if self.compiled is not None:
            return self.compiled.predict_columns(columns)
        return self.scores(frame_of(self.manifest, columns))

    def scores(self, frame: pd.DataFrame) -> Floats:
        """Return values (n,) for regression, class probabilities (n, classes) otherwise; extra columns are left out.

        Raises ContractError if a feature column is missing.
        """
        names = list(self.manifest.feature_names)
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise ContractError(
                f"{self.manifest.model}: the input lacks {', '.join(missing)}; the model needs {', '.join(names)}"
            )
        return metrics.predict(self.estimator, self.manifest.task, frame[names])


def frame_of(manifest: Manifest, columns: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Return the model's input from one sequence of values a feature: float64 with NaN for None, or strings."""
    import pandas as pd

    if "string" not in manifest.feature_types:  # one block, not one a column: a tenth of the time for one row
        return pd.DataFrame(np.array(columns, dtype=np.float64).T, columns=list(manifest.feature_names))
    return pd.DataFrame(
        {
            name: np.array(values, dtype=np.float64 if kind == "float" else object)
            for name, kind, values in zip(manifest.feature_names, manifest.feature_types, columns, strict=True)
        }
    )


def load_bundle(folder: Path, digest: str, trusted_types: Sequence[str] = ()) -> Bundle:
    """Open a bundle and check that its golden rows come out as they were fitted.

    Raises TamperedError if a file is not the recorded one or holds a type that nobody trusts, ContractError if it
    cannot be used here, for instance because another scikit-learn made it.
    """
    bundle = open_bundle(folder, digest, trusted_types)
    _check_golden(bundle, folder)
    return bundle


def _check_golden(bundle: Bundle, folder: Path) -> None:
    """Raise ContractError unless the golden rows come out as they were fitted, by estimator and compiled form."""
    forms = [(golden_difference(bundle), TOLERANCE)] if bundle.estimator is not None else []
    forms += [(compiled_difference(bundle), compiled.TOLERANCE)] if bundle.compiled is not None else []
    for difference, tolerated in forms:
        if not difference <= tolerated:
            raise ContractError(
                f"{folder}: the golden rows differ by {difference:.2g} (relative, tolerated {tolerated:g}) from what was "
                f"fitted{_made_elsewhere(bundle.manifest)}; serve with the versions of its serving.json, or train again"
            )


def open_bundle(folder: Path, digest: str, trusted_types: Sequence[str] = ()) -> Bundle:
    """Open a bundle without looking at its golden rows.

    The bytes that were hashed are the bytes that are parsed. Raises as ``load_bundle``.
    """
    manifest, data = _read(folder, digest)
    estimator = load_estimator(data, folder / MODEL, trusted_types, _made_elsewhere(manifest))
    return Bundle(manifest, estimator, _read_compiled(folder, manifest))


def load_for_serving(folder: Path, digest: str) -> Bundle | None:
    """Open a bundle by its compiled form alone, without scikit-learn; None if it has no such form.

    All files are compared with their hashes, and the golden rows must come out. Who calls this has had the bundle's
    estimator checked before, by ``load_bundle``. Raises as that.
    """
    manifest, _ = _read(folder, digest)
    form = _read_compiled(folder, manifest)
    if form is None:
        return None
    bundle = Bundle(manifest, None, form)
    _check_golden(bundle, folder)
    return bundle


def _read(folder: Path, digest: str) -> tuple[Manifest, bytes]:
    """Return the manifest and the model file's bytes, compared with their hashes."""
    text = read_bytes(folder / SERVING, MAX_SERVING_BYTES)
    _compare(text, digest, folder / SERVING)
    manifest = parse_manifest(text, folder / SERVING)
    data = read_bytes(folder / MODEL, MAX_MODEL_BYTES)
    _compare(data, manifest.model_sha256, folder / MODEL)
    return manifest, data


def _read_compiled(folder: Path, manifest: Manifest) -> Compiled | None:
    if manifest.compiled.sha256 is None:
        return None
    data = read_bytes(folder / COMPILED, MAX_COMPILED_BYTES)
    _compare(data, manifest.compiled.sha256, folder / COMPILED)
    return compiled.load(data, len(manifest.feature_names), str(folder / COMPILED))


def _compare(data: bytes, digest: str, path: Path) -> None:
    if sha256(data).hexdigest() != digest:
        raise TamperedError(
            f"{path} is not the recorded file (sha256 is not {digest[:12]}…); restore it, or promote another version"
        )


def load_estimator(data: bytes, path: Path, trusted_types: Sequence[str], made: str = "") -> Any:
    """Load an estimator from the bytes of its file, whose hash was compared; ``made`` says with what it was made, if not
    with what is here.

    Raises TamperedError if they hold a type that nobody trusts, ContractError if they cannot be loaded here.
    """
    import skops.io

    check_archive(data, path)
    try:
        unknown = sorted(set(skops.io.get_untrusted_types(data=data)) - TRUSTED_TYPES - set(trusted_types))
        if unknown:
            raise TamperedError(
                f"{path} holds types that nobody trusts: {', '.join(unknown[:5])}; if they are your own and "
                "safe, name them in EVERGREEN_TRUSTED_TYPES, else find out who wrote the file"
            )
        return _loaded(data, [*TRUSTED_TYPES, *trusted_types])
    except TamperedError:
        raise
    except Exception as error:  # whatever a crafted file, or another scikit-learn, makes the loader raise
        raise ContractError(
            f"{path} cannot be loaded here ({type(error).__name__}: {one_line(error)})"
            f"{made}; use the versions of its serving.json, or train again"
        ) from error


@retry(retry=retry_if_exception_type(SystemError), stop=stop_after_attempt(5), wait=wait_fixed(0.05), reraise=True)
def _loaded(data: bytes, trusted: list[str]) -> Any:
    """Load what was checked; again after a SystemError.

    NumPy parses the head of each array with ``ast``, whose state the threads of a process share; while another parses, it
    may count wrongly and fail (CPython issue 106905, seen with 3.11.7).
    """
    import skops.io

    return skops.io.loads(data, trusted=trusted)


def compiled_difference(bundle: Bundle) -> float:
    """Return the largest relative difference of the compiled form's answers to the golden rows from the fitted ones."""
    golden = bundle.manifest.golden
    try:
        now = as_rows(bundle.answers(list(zip(*golden.inputs, strict=True))))
    except Exception:  # noqa: BLE001 (a form that cannot answer differs as much as can be)
        return float("inf")
    return compiled.difference(now, np.array(golden.outputs, dtype=np.float64))


def golden_difference(bundle: Bundle) -> float:
    """Return the largest difference between the golden outputs as fitted and as they come out now, relative.

    Relative to the fitted value or, where that is smaller, to the mean magnitude of its column; infinite if the
    prediction fails, has another shape, or is not finite where it was.
    """
    from threadpoolctl import threadpool_limits

    golden = bundle.manifest.golden
    columns = list(zip(*golden.inputs, strict=True))
    fitted = np.array(golden.outputs, dtype=np.float64)
    try:
        with threadpool_limits(limits=1):  # so few rows are not worth a team of threads
            now = as_rows(bundle.scores(frame_of(bundle.manifest, columns)))
    except Exception:  # noqa: BLE001 (an estimator that cannot predict differs as much as can be)
        return float("inf")
    if now.shape != fitted.shape or not np.isfinite(fitted).all():
        return float("inf")
    scale = np.maximum(np.abs(fitted), np.abs(fitted).mean(axis=0))
    gap = np.abs(now - fitted)
    relative = np.divide(gap, scale, out=np.where(gap == 0, 0.0, np.inf), where=scale > 0)
    return float(np.where(np.isnan(relative), np.inf, relative).max())


def as_rows(outputs: Floats) -> Floats:
    """Return values or probabilities as one row of numbers each."""
    return outputs.reshape(len(outputs), -1)


def _made_elsewhere(manifest: Manifest) -> str:
    here = {name: version(name) for name in PACKAGES}
    made = {name: found for name, found in manifest.versions.items() if name in here and found != here[name]}
    others = [f"{name} {found} (here {here[name]})" for name, found in made.items()]
    return f"; it was made with {', '.join(others)}" if others else ""
