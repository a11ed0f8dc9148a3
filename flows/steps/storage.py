"""Where files that others must find are kept: in the home, or in an S3 bucket with the home as the copy that is worked on.

A file that is written is in the bucket before it is in the home, and before the ledger names it; it has a name of its own
and is never changed, so that a copy in a home is as good as the object.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.errors import EvergreenError, UnavailableError
from flows.ledger import Partition
from flows.settings import Settings
from flows.steps import s3
from flows.steps.files import is_whole_parquet, replacing, scratch


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
                s3.upload(temporary, address(settings, path))
    except (OSError, duckdb.IOException) as error:
        first = str(error).splitlines()[0]
        raise UnavailableError(f"{path.parent} cannot be written ({first}); free some space, then run again") from error


def publish(settings: Settings, path: Path) -> str:
    """Bring a page of the home, as it is now, into the bucket as well; return what it is called."""
    if settings.storage_url:
        s3.upload(path, address(settings, path))
    return address(settings, path)


def remove(settings: Settings, path: Path) -> None:
    """Remove a file of the home that nobody needs any more, from the bucket as well."""
    path.unlink(missing_ok=True)
    if settings.storage_url:
        s3.delete(address(settings, path))


def local(settings: Settings, uri: str) -> str:
    """Return the path of a file that the ledger names; it is fetched if this home has not got it.

    Raises UnavailableError if the bucket does not give it.
    """
    if not uri.startswith("s3://"):
        return uri
    path = _path(settings, uri)
    if not path.exists():
        s3.download(uri, path)
    return str(path)


def locals_of(settings: Settings, uris: Iterable[str]) -> list[str]:
    """Return the paths of files that the ledger names, as ``local`` does."""
    return [local(settings, uri) for uri in uris]


def at_hand(settings: Settings, partitions: Iterable[Partition], landed: bool = False) -> list[Partition]:
    """Return partitions whose accepted rows, and with ``landed`` the landed ones, are named by their paths in this home.

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
    for found in s3.listed(address(settings, folder)):
        path = _path(settings, f"s3://{found.path}")
        if wanted(path.name) and not path.exists():
            s3.download(f"s3://{found.path}", path)


def damaged(uris: Iterable[str]) -> list[str]:
    """Return which of some parquet files that the ledger names, of those in the home, are not whole."""
    here = (uri for uri in uris if uri.endswith(".parquet") and not uri.startswith("s3://") and Path(uri).exists())
    return [uri for uri in here if not is_whole_parquet(Path(uri))]


def is_lost(uri: str) -> bool:
    """Say whether a file that the ledger names in this home is gone or damaged; a bucket is trusted to keep its own."""
    return not uri.startswith("s3://") and (not Path(uri).exists() or bool(damaged([uri])))


def missing(uris: Iterable[str]) -> list[str]:
    """Return which of some files that the ledger names are neither in the home nor in the bucket."""
    wanted = [uri for uri in uris if uri.startswith("s3://")]
    gone = [uri for uri in uris if not uri.startswith("s3://") and not Path(uri).exists()]
    return gone + s3.missing(wanted)


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
            for found in s3.listed(uri, recursive=False):
                s3.download(f"s3://{found.path}", copy / found.base_name)
            yield copy
        except EvergreenError as error:
            raise type(error)(str(error).replace(str(copy), uri)) from error


def read(uri: str, patience: float | None = None) -> bytes:
    """Return a small file that the ledger or the registry names; raises FileNotFoundError if it is not there.

    A bucket that refuses is asked again for ``patience`` seconds, a minute by default.
    """
    return s3.read(uri, patience) if uri.startswith("s3://") else Path(uri).read_bytes()


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
