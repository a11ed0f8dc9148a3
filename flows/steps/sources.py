"""Where raw data comes from: a file, a folder, a glob or a URL becomes files on this disk, under safe names."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from flows.errors import EvergreenError, UnavailableError, UsageError
from flows.secret import shown
from flows.settings import Settings
from flows.spec import Frozen
from flows.steps.files import scratch

SUFFIXES = (".parquet", ".csv", ".csv.gz")
CHUNK = 1 << 20
REMOTE = ("http", "https", "s3")
MAGIC = frozenset("*?[")


class SourceFile(Frozen):
    """One file of a source: ``path`` is where it can be read, ``name`` what it was called, ``origin`` where it was."""

    path: Path
    name: str
    origin: str


@contextmanager
def opened(source: str, settings: Settings) -> Iterator[list[SourceFile]]:
    """Yield the files of a source in the order of their names; what was downloaded is gone afterwards.

    ``source`` is a parquet or CSV file (also ``.csv.gz``), a folder of them, a glob, or an http(s) or s3 URL. Raises
    UsageError if there is nothing to read, UnavailableError if a server does not answer or the disk is full.
    """
    with scratch(settings.home, "source") as folder:
        scheme, path = _parsed(source)
        if scheme in {"http", "https"}:
            yield [_download_http(source, folder, settings.http_timeout_seconds)]
        elif scheme == "s3":
            yield _download_s3(source, folder, settings.http_timeout_seconds)
        else:
            check(source)
            yield [_local(found, folder, number) for number, found in enumerate(_find(path))]


def check(source: str) -> None:
    """Raise UsageError for a source that cannot be read, as far as that shows without asking a server."""
    scheme, path = _parsed(source)
    if not scheme:
        _find(path)
    elif scheme not in REMOTE:
        raise UsageError(f"{shown(source)}: {scheme}:// cannot be read; use a path, an http(s) or an s3 URL")


def _parsed(source: str) -> tuple[str, str]:
    """Return scheme and path of a source; no scheme is one of this machine's disks."""
    scheme = urlsplit(source).scheme.lower() if "://" in source else ""
    return ("", unquote(urlsplit(source).path)) if scheme == "file" else (scheme, source)


def _find(source: str) -> list[Path]:
    """Return the data files that a path, a folder or a glob names, whose own names can be written down."""
    found = _named(source)
    unnamed = [str(path) for path in found if not is_text(str(path.resolve()))]
    if unnamed:
        raise UsageError(f"{unnamed[0]!r} has a name that is not in UTF-8, which nothing can record; rename it")
    return found


def _named(source: str) -> list[Path]:
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if is_data(file.name) and file.is_file())
            if not found:
                raise UsageError(f"folder {source} holds no {', '.join(SUFFIXES)} file; name one that does")
            return found
        if path.is_file():
            if not path.name.lower().endswith(SUFFIXES):
                raise UsageError(f"{source} is not a {', '.join(SUFFIXES)} file; convert it, or correct its name")
            return [path]
        if MAGIC & set(source):
            names = glob.glob(str(path))  # noqa: PTH207 (pathlib takes no absolute pattern)
            found = sorted(Path(file) for file in names if is_data(file) and Path(file).is_file())
            if found:
                return found
            raise UsageError(f"no {', '.join(SUFFIXES)} file fits {source}; quote the pattern and check its folder")
    except OSError as error:
        raise UsageError(f"{source} cannot be looked at ({error.strerror}); check the path and its rights") from error
    raise UsageError(f"{source} does not exist; name a file, a folder, a glob or a URL")


def is_data(name: str) -> bool:
    """Say whether a name among others is one of data: hidden files and those of tools, such as _SUCCESS, are not."""
    plain = PurePosixPath(name).name
    return plain.lower().endswith(SUFFIXES) and not plain.startswith((".", "_"))


def is_text(name: str) -> bool:
    """Say whether a name is text: a file's may be any bytes, which are no UTF-8 then, and in no database, event or page."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _safe_path(folder: Path, number: int, name: str) -> Path:
    """Return a path that means itself to every reader: DuckDB would take a file named ``a[1].csv`` for a pattern."""
    suffix = next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix))
    return folder / f"{number:06d}{suffix}"


def _local(found: Path, folder: Path, number: int) -> SourceFile:
    try:
        with found.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"{found} cannot be read ({error.strerror}); check its rights") from error
    link = _safe_path(folder, number, found.name)
    link.symlink_to(found.resolve())
    return SourceFile(path=link, name=found.name, origin=str(found.resolve()))


def _download_http(url: str, folder: Path, timeout: float) -> SourceFile:
    """Stream a URL into the folder; a body shorter than announced is an error, not a short file."""
    import httpx

    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not is_data(name):
        raise UsageError(f"{shown(url)} does not name a {', '.join(SUFFIXES)} file; use the URL of the file itself")
    target = _safe_path(folder, 0, name)
    # What is packed is wanted as it is: some servers call that an encoding of the CSV file, which httpx would undo.
    packed = name.lower().endswith(".gz")
    headers = {"Accept-Encoding": "identity"} if packed else {}
    try:
        with httpx.stream("GET", url, timeout=timeout, follow_redirects=True, headers=headers) as answer:
            if 400 <= answer.status_code < 500:
                raise UsageError(f"{shown(url)} answers {answer.status_code}; check the address and your access to it")
            answer.raise_for_status()
            with target.open("wb") as file:
                for chunk in answer.iter_raw(CHUNK) if packed else answer.iter_bytes(CHUNK):
                    file.write(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnavailableError(f"{shown(url)} could not be fetched ({_what(error)}); try again later") from error
    except OSError as error:
        raise _no_room(url, folder, error) from error
    return SourceFile(path=target, name=name, origin=shown(url))


def _download_s3(url: str, folder: Path, timeout: float) -> list[SourceFile]:
    """Copy an object, all objects of a prefix, or those that a glob names, into the folder.

    Credentials and endpoint are those of the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on).
    """
    import botocore.exceptions
    import fsspec

    try:
        store = fsspec.filesystem(
            "s3", config_kwargs={"connect_timeout": timeout, "read_timeout": timeout, "retries": {"max_attempts": 2}}
        )
        folder_like = not MAGIC & set(url) and store.isdir(url)
        found = store.ls(url, detail=False) if folder_like else store.glob(url) if MAGIC & set(url) else [url]
        names = sorted(name for name in found if is_data(name))
        if not names:
            raise UsageError(f"{shown(url)} holds no {', '.join(SUFFIXES)} object; check bucket and prefix")
        files = []
        for number, name in enumerate(names):
            plain = PurePosixPath(name).name
            target = _safe_path(folder, number, plain)
            with store.open(name, "rb") as remote, target.open("wb") as file:
                shutil.copyfileobj(remote, file, CHUNK)
            files.append(SourceFile(path=target, name=plain, origin=f"s3://{name.removeprefix('s3://')}"))
    except FileNotFoundError as error:
        raise UsageError(f"{shown(url)} does not exist; check bucket and key") from error
    except PermissionError as error:
        raise UsageError(f"{shown(url)} may not be read; check the credentials in the environment") from error
    except (botocore.exceptions.BotoCoreError, OSError) as error:
        if getattr(error, "errno", None) == 28:
            raise _no_room(url, folder, error) from error
        raise UnavailableError(f"{shown(url)} could not be fetched ({_what(error)}); try again later") from error
    return files


def _no_room(url: str, folder: Path, error: Exception) -> EvergreenError:
    return UnavailableError(
        f"{shown(url)} could not be stored in {folder.parent} ({error}); free some space, run again"
    )


def _what(error: Exception) -> str:
    """Return an error in one line, without the URL, which may hold a secret."""
    return f"{type(error).__name__}: {str(error).split(' for url')[0].splitlines()[0] if str(error) else 'no message'}"
