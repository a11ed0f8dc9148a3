"""An S3 bucket, asked patiently: the only S3 code of the lake, the model files, the pages and the prediction log.

Any store that speaks S3 will do; ``AWS_ENDPOINT_URL`` and the AWS_* credentials are used. Objects go by ``s3://`` addresses.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flows.errors import UnavailableError
from flows.steps.files import replacing

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
    """Ask the bucket once and for seconds only, for as long as the block runs: for a look at whether it answers."""
    token = _at_a_glance.set(True)
    try:
        yield
    finally:
        _at_a_glance.reset(token)


def upload(file: Path, uri: str) -> None:
    """Write an object, whole or not at all."""

    def write() -> None:
        with file.open("rb") as source, _system().open_output_stream(_key(uri)) as stream:
            shutil.copyfileobj(source, stream, 2**22)

    _patiently(write, uri)


def download(uri: str, path: Path) -> None:
    """Fetch an object into a file, atomically; raises UnavailableError if it is not there, or the disk is full."""

    def fetch() -> None:
        with (
            _system().open_input_stream(_key(uri)) as stream,
            replacing(path) as temporary,
            temporary.open("wb") as target,
        ):
            shutil.copyfileobj(stream, target, 2**22)

    try:
        _patiently(fetch, uri)
    except FileNotFoundError as error:
        raise UnavailableError(f"{uri} is not there; restore the bucket from a backup") from error
    except OSError as error:
        raise UnavailableError(
            f"{path.parent} cannot be written ({error.strerror}); free some space, then run again"
        ) from error


def read(uri: str, patience: float | None = None) -> bytes:
    """Return a small object; raises FileNotFoundError if it is not there."""

    def fetch() -> bytes:
        with _system().open_input_stream(_key(uri)) as stream:
            return bytes(stream.read())

    return _patiently(fetch, uri, patience)


def delete(uri: str) -> None:
    """Delete an object."""
    _patiently(lambda: _system().delete_file(_key(uri)), uri)


def listed(uri: str, recursive: bool = True) -> list[FileInfo]:
    """Return the objects below an address."""
    from pyarrow.fs import FileSelector, FileType

    selector = FileSelector(_key(uri), recursive=recursive, allow_not_found=True)
    found = _patiently(lambda: _system().get_file_info(selector), uri)
    return [one for one in found if one.type == FileType.File]


def missing(uris: Sequence[str]) -> list[str]:
    """Return which objects are not there."""
    from pyarrow.fs import FileType

    # One alone first: a store that is away would be waited for once an object.
    infos = [info for some in (uris[:1], uris[1:]) if some for info in _infos(some)]
    return [uri for uri, info in zip(uris, infos, strict=True) if info.type != FileType.File]


def probe(uri: str) -> None:
    """Write, read and delete a small object below an address; raises OSError with what the store says if that cannot be."""
    system, key = _system(), f"{_key(uri)}/.doctor-{uuid.uuid4().hex}"
    with system.open_output_stream(key) as stream:
        stream.write(key.encode())
    try:
        with system.open_input_stream(key) as stream:
            if stream.read() != key.encode():
                raise OSError("what was written does not read back")
    finally:
        system.delete_file(key)


def _key(uri: str) -> str:
    return uri.removeprefix("s3://")


def _infos(uris: Sequence[str]) -> list[FileInfo]:
    keys = [_key(uri) for uri in uris]
    return _patiently(lambda: _system().get_file_info(keys), uris[0])


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
