"""Where files that others must find are kept: in the home, or in an S3 bucket with the home as the copy that is worked on.

The only S3 code of the lake, the model files, the pages and the prediction log. A file that is written is in the bucket
before it is in the home, and before the ledger names it; it has a name of its own and is never changed, so that a copy in a
home is as good as the object. Any store that speaks S3 will do; ``AWS_ENDPOINT_URL`` and the AWS_* credentials are used.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flows.errors import EvergreenError, UnavailableError
from flows.ledger import Partition
from flows.settings import Settings
from flows.steps.files import is_whole_parquet, replacing, scratch

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, S3FileSystem

CONNECT_SECONDS, REQUEST_SECONDS, ATTEMPTS = 5.0, 15.0, 2  # of Arrow: a store that hangs is waited for a minute as well
GLANCE_SECONDS = 10.0  # for a request of a look that is not to wait
PATIENCE_SECONDS = 60.0  # for a store that refuses or does not answer
FIRST_PAUSE_SECONDS = 0.5
FINAL = ("NO_SUCH_BUCKET", "ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")  # as Arrow names them
Result = TypeVar("Result")
_at_a_glance: ContextVar[bool] = ContextVar("evergreen_at_a_glance", default=False)


@contextmanager
def at_a_glance() -> Iterator[None]:
    """Ask the bucket once and for seconds only, for as long as the block runs: who looks whether it answers does not wait."""
    token = _at_a_glance.set(True)
    try:
        yield
    finally:
        _at_a_glance.reset(token)


def address(settings: Settings, path: Path) -> str:
    """Return what the ledger calls a file of the home: its path, or its address in the bucket."""
    return f"{settings.storage_url}/{_name(settings, path)}" if settings.storage_url else str(path)


def unique(settings: Settings, stem: str) -> str:
    """Return a stem that is used once in a bucket: two hosts may write what has one name in a home."""
    return f"{stem}-{uuid.uuid4().hex[:8]}" if settings.storage_url else stem


@contextmanager
def writing(settings: Settings, path: Path) -> Iterator[Path]:
    """Yield a path that becomes ``path``, in the bucket first.

    Raises UnavailableError if it cannot be written, leaving nothing.
    """
    import duckdb

    try:
        with replacing(path) as temporary:
            yield temporary
            if settings.storage_url:
                _put(settings, temporary, path)
    except (OSError, duckdb.IOException) as error:
        first = str(error).splitlines()[0]
        raise UnavailableError(f"{path.parent} cannot be written ({first}); free some space, then run again") from error


def publish(settings: Settings, path: Path) -> str:
    """Bring a page of the home, as it is now, into the bucket as well; return what it is called."""
    if settings.storage_url:
        _put(settings, path, path)
    return address(settings, path)


def remove(settings: Settings, path: Path) -> None:
    """Remove a file of the home that nobody needs any more, from the bucket as well."""
    path.unlink(missing_ok=True)
    if settings.storage_url:
        target = address(settings, path)
        _patiently(lambda: _system().delete_file(target.removeprefix("s3://")), target)


def local(settings: Settings, uri: str) -> str:
    """Return the path of a file that the ledger names; it is fetched if this home has not got it.

    Raises UnavailableError if the bucket does not give it.
    """
    if not uri.startswith("s3://"):
        return uri
    path = _path(settings, uri)
    if not path.exists():
        _get(uri, path)
    return str(path)


def locals_of(settings: Settings, uris: Iterable[str]) -> list[str]:
    """Return the paths of files that the ledger names, as ``local`` does."""
    return [local(settings, uri) for uri in uris]


def at_hand(settings: Settings, partitions: Iterable[Partition], landed: bool = False) -> list[Partition]:
    """Return partitions with the paths in this home of their accepted rows, and of the landed ones, for addresses.

    A file that the bucket has not keeps its address, under which nobody finds it.
    """
    found = []
    for one in partitions:
        paths = {"accepted_uri": one.accepted_uri} | ({"uri": one.uri} if landed else {})
        for name, uri in paths.items():
            try:
                paths[name] = local(settings, uri) if uri else uri
            except UnavailableError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
        found.append(one.model_copy(update=paths))
    return found


def pull(settings: Settings, folder: Path, wanted: Callable[[str], bool] = bool) -> None:
    """Fetch what the bucket has below a folder of the home and the home has not, of the files whose names are wanted."""
    if not settings.storage_url:
        return
    for found in _listed(address(settings, folder)):
        path = _path(settings, f"s3://{found.path}")
        if wanted(path.name) and not path.exists():
            _get(f"s3://{found.path}", path)


def damaged(uris: Iterable[str]) -> list[str]:
    """Return which of some parquet files that the ledger names, of those in the home, are not whole."""
    here = (uri for uri in uris if uri.endswith(".parquet") and not uri.startswith("s3://") and Path(uri).exists())
    return [uri for uri in here if not is_whole_parquet(Path(uri))]


def is_lost(uri: str) -> bool:
    """Say whether a file that the ledger names in this home is gone or damaged; a bucket is trusted to keep its own."""
    return not uri.startswith("s3://") and (not Path(uri).exists() or bool(damaged([uri])))


def missing(settings: Settings, uris: Iterable[str]) -> list[str]:
    """Return which of some files that the ledger names are neither in the home nor in the bucket."""
    from pyarrow.fs import FileType

    wanted = [uri for uri in uris if uri.startswith("s3://")]
    gone = [uri for uri in uris if not uri.startswith("s3://") and not Path(uri).exists()]
    if wanted:
        system = _system()
        keys = [uri.removeprefix("s3://") for uri in wanted]
        # One alone first: a store that is away would be waited for once a key.
        _patiently(lambda: system.get_file_info(keys[:1]), settings.storage_url)
        infos = _patiently(lambda: system.get_file_info(keys), settings.storage_url)
        gone += [uri for uri, info in zip(wanted, infos, strict=True) if info.type != FileType.File]
    return gone


@contextmanager
def folder(settings: Settings, uri: str) -> Iterator[Path]:
    """Yield the folder of a model: where it is, or a fresh copy of the bucket's for as long as the block runs.

    A fresh one, so that what was changed or deleted in the bucket is seen. What is raised of the copy speaks of ``uri``.
    """
    if not uri.startswith("s3://"):
        yield Path(uri)
        return
    with scratch(settings.home, "model") as copy:
        try:
            for found in _listed(uri, recursive=False):
                _get(f"s3://{found.path}", copy / found.base_name)
            yield copy
        except EvergreenError as error:
            raise type(error)(str(error).replace(str(copy), uri)) from error


def read(uri: str, patience: float | None = None) -> bytes:
    """Return a small file that the ledger or the registry names; raises FileNotFoundError if it is not there.

    A bucket that refuses is asked again for ``patience`` seconds, a minute by default.
    """
    if not uri.startswith("s3://"):
        return Path(uri).read_bytes()

    def download() -> bytes:
        with _system().open_input_stream(uri.removeprefix("s3://")) as stream:
            return bytes(stream.read())

    return _patiently(download, uri, patience)


def probe(settings: Settings) -> None:
    """Write, read and delete a small object; raises OSError with what the store says if that cannot be."""
    system, key = _system(), f"{settings.storage_url.removeprefix('s3://')}/.doctor-{uuid.uuid4().hex}"
    with system.open_output_stream(key) as stream:
        stream.write(key.encode())
    try:
        with system.open_input_stream(key) as stream:
            if stream.read() != key.encode():
                raise OSError("what was written does not read back")
    finally:
        system.delete_file(key)


def _name(settings: Settings, path: Path) -> str:
    return path.relative_to(settings.home).as_posix()


def _path(settings: Settings, uri: str) -> Path:
    """Return where the home keeps its copy of an object; what is in another bucket or folder is kept apart."""
    below = f"{settings.storage_url}/"
    name = uri.removeprefix(below) if settings.storage_url and uri.startswith(below) else f"fetched/{uri[5:]}"
    path = (settings.home / name).resolve()
    if not path.is_relative_to(settings.home):
        raise UnavailableError(f"{uri} is no name of a file of {settings.home}")
    return path


def _put(settings: Settings, file: Path, path: Path) -> None:
    target = address(settings, path)
    _patiently(lambda: _upload(file, target.removeprefix("s3://")), target)


def _upload(file: Path, key: str) -> None:
    with file.open("rb") as source, _system().open_output_stream(key) as stream:
        shutil.copyfileobj(source, stream, 2**22)


def _get(uri: str, path: Path) -> None:
    def download() -> None:
        key = uri.removeprefix("s3://")
        with _system().open_input_stream(key) as stream, replacing(path) as temporary, temporary.open("wb") as target:
            shutil.copyfileobj(stream, target, 2**22)

    try:
        _patiently(download, uri)
    except FileNotFoundError as error:
        raise UnavailableError(f"{uri} is not there; restore the bucket from a backup") from error
    except OSError as error:
        raise UnavailableError(
            f"{path.parent} cannot be written ({error.strerror}); free some space, then run again"
        ) from error


def _listed(uri: str, recursive: bool = True) -> list[FileInfo]:
    from pyarrow.fs import FileSelector, FileType

    selector = FileSelector(uri.removeprefix("s3://"), recursive=recursive, allow_not_found=True)
    found = _patiently(lambda: _system().get_file_info(selector), uri)
    return [one for one in found if one.type == FileType.File]


def _patiently(do: Callable[[], Result], what: str, patience: float | None = None) -> Result:
    """Do something with the bucket, again for a minute while it is refused; raises UnavailableError after that.

    That an object is not there is no refusal: FileNotFoundError is raised at once, as are errors of this machine's disk.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

    seconds = 0.0 if _at_a_glance.get() else PATIENCE_SECONDS if patience is None else patience
    attempts = Retrying(
        retry=retry_if_exception(_may_pass), stop=stop_after_delay(seconds),
        wait=wait_exponential_jitter(FIRST_PAUSE_SECONDS, max=5), reraise=True,
    )  # fmt: skip
    try:
        return attempts(do)
    except OSError as error:
        if error.errno is not None:
            raise
        raise UnavailableError(
            f"{what} cannot be reached ({str(error).splitlines()[0][:300]}); see `evergreen doctor`, then run again"
        ) from error


def _may_pass(error: BaseException) -> bool:
    """Say whether waiting may help: not for what is not there, a full disk here, or a key that is unknown or not enough."""
    if not isinstance(error, OSError) or error.errno is not None:  # the store's own refusals have no number
        return False
    return not any(word in str(error) for word in FINAL)


def _system() -> S3FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    limits = (GLANCE_SECONDS, 1) if _at_a_glance.get() else (REQUEST_SECONDS, ATTEMPTS)
    return _opened(endpoint or None, os.environ.get("AWS_DEFAULT_REGION") or "us-east-1", *limits)


@cache
def _opened(endpoint: str | None, region: str, seconds: float, attempts: int) -> S3FileSystem:
    """Open the store that the environment names; the credentials are found by Arrow, as by every AWS client."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        endpoint_override=endpoint, region=region, connect_timeout=CONNECT_SECONDS,
        request_timeout=seconds, retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts), allow_bucket_creation=False,
        check_directory_existence_before_creation=False,
    )  # fmt: skip
