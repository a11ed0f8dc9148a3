"""What may come out of a model file: types from our own list, never one that the file brings along, and so much data.

skops trusts the public estimators of scikit-learn and the plain types of numpy and Python by itself. These are the
further ones that common fitted estimators hold. They were found by fitting each estimator of scikit-learn and asking
skops which types it does not know. A team's own classes are added by ``Settings.trusted_types``.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flows.errors import TamperedError

MAX_UNPACKED_BYTES: Final = 2**31
MAX_MEMBERS: Final = 200_000
MEMBER: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")

# A trusted tree can still hold node numbers that point outside of it, and scikit-learn does not look: what keeps such
# a file away is the digest in the ledger, which is compared before anything is parsed.
TREES: Final = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
# Trees of columns with categories hold a partial of their check: what a partial calls must itself be on this list.
PARTS: Final = (
    "functools.partial",
    "numpy.dtype",
    "scipy.interpolate._bsplines.BSpline",
    "scipy.sparse._csc.csc_array",
    "scipy.sparse._csc.csc_matrix",
    "scipy.sparse._csr.csr_array",
    "scipy.sparse._csr.csr_matrix",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
    "sklearn.utils._metadata_requests.MetadataRequest",
    "sklearn.utils._metadata_requests.MethodMetadataRequest",
    "sklearn.utils.validation.check_array",
)
KERNELS: Final = (
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
)
TRUSTED_TYPES: Final = frozenset((*TREES, *PARTS, *KERNELS))


def read_bytes(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes; raises TamperedError if it is missing, larger, or cannot be read."""
    try:
        if not path.is_file():
            raise TamperedError(f"{path} is missing; restore it, or promote another version")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise TamperedError(
            f"{path} cannot be read ({error.strerror}); mend that, or promote another version"
        ) from error
    if len(data) > most:
        raise TamperedError(f"{path} is larger than the {most} bytes that are read; train a smaller model")
    return data


def check_archive(data: bytes, path: Path) -> None:
    """Refuse what skops does not write: no zip, odd names, other compressions, or more than may be unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            oddity = _oddity(members)
            for member in members if oddity is None else ():
                if member.filename.endswith(".npz"):  # a sparse matrix is a zip again
                    with zipfile.ZipFile(io.BytesIO(archive.read(member))) as inner:
                        oddity = oddity or _oddity([*members, *inner.infolist()])
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, OSError, RuntimeError) as error:
        raise TamperedError(f"{path} is no file of skops ({one_line(error)}); find out who wrote it") from error
    if oddity:
        raise TamperedError(f"{path} is no file of skops ({oddity}); find out who wrote it")


def _oddity(members: Sequence[zipfile.ZipInfo]) -> str | None:
    """Say what is wrong with the directory of an archive. Python unpacks a member to its declared size at most."""
    if len(members) > MAX_MEMBERS:
        return f"{len(members)} members, {MAX_MEMBERS} are read at most"
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        return f"it unpacks to more than {MAX_UNPACKED_BYTES} bytes"
    for member in members:
        if not MEMBER.fullmatch(member.filename):
            return f"a member is named {member.filename[:80]!r}"
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return f"{member.filename} is compressed by method {member.compress_type}"
    return None


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
