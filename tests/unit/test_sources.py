"""Sources: what can be named, what is refused with a word on how to mend it, and that no name does harm."""

import functools
import gzip
import http.server
import os
import threading
from pathlib import Path

import pytest

from flows.errors import UnavailableError, UsageError
from flows.settings import Settings
from flows.steps.sources import check, opened


@pytest.fixture
def plain(tmp_path):
    """Return settings of a home that is not activated, with short patience."""
    return Settings(home=tmp_path / "home", http_timeout_seconds=2)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.csv", "a.parquet", "c.csv.gz", ".hidden.csv", "_part.csv", "notes.txt"):
        (folder / name).write_bytes(name.encode())
    return folder


def names(source, settings):
    with opened(str(source), settings) as files:
        return [file.name for file in files]


def test_a_folder_gives_its_data_files_in_order(folder, plain):
    assert names(folder, plain) == ["a.parquet", "b.csv", "c.csv.gz"]


def test_a_name_that_is_no_text_is_refused_before_anything_is_recorded(folder, plain):
    bad = folder / os.fsdecode(b"d\xff.csv")
    bad.write_text("1")
    for source in (bad, folder, f"{folder}/d*.csv"):
        with pytest.raises(UsageError, match=r"d\\udcff\.csv' has a name that is not in UTF-8"):
            check(str(source))


def test_a_glob_a_file_and_a_file_url_name_files(folder, plain):
    assert names(f"{folder}/*.csv*", plain) == ["b.csv", "c.csv.gz"]
    assert names(folder / "b.csv", plain) == ["b.csv"]
    assert names((folder / "b.csv").as_uri(), plain) == ["b.csv"]


@pytest.mark.parametrize("name", ["a[1].csv", "x*.csv", "it's.csv", "<b>.csv", "a;b.csv"])
def test_any_file_name_is_read_as_itself_under_a_safe_path(tmp_path, plain, name):
    (tmp_path / name).write_text("content")
    with opened(str(tmp_path / name), plain) as (file,):
        assert file.name == name
        assert file.path.read_text() == "content"
        assert file.path.name == "000000.csv"
        assert plain.home in file.path.parents
    assert not file.path.exists()
    assert (tmp_path / name).read_text() == "content"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("{folder}/none.csv", "does not exist"),
        ("{folder}/notes.txt", "is not a"),
        ("{folder}/*.orc", "no .parquet"),
        ("{empty}", "holds no"),
        ("ftp://host/a.csv", "ftp://"),
        ("http://127.0.0.1:1/", "does not name a"),
        ("", "holds no"),
        ("a\0b.csv", "does not exist"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(folder, tmp_path, plain, monkeypatch, source, word):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with (
        pytest.raises(UsageError, match=word) as caught,
        opened(source.format(folder=folder, empty=tmp_path / "empty"), plain),
    ):
        pass
    assert "\n" not in str(caught.value)


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; ``/short.csv`` breaks off in the middle, ``/broken.csv`` is an error of the server."""

    def do_GET(self):
        if self.path.startswith("/short.csv"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"a,b\n1,2\n")
        elif self.path.startswith("/packed.csv.gz"):
            content = gzip.compress(b"a,b\n1,2\n")
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")  # as servers are set up that know .gz for an encoding
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        elif self.path.startswith("/broken.csv"):
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def url(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_url_is_downloaded_and_its_secrets_are_not_shown(url, plain):
    with opened(url.replace("http://", "http://me:secret@") + "/b.csv?token=secret", plain) as (file,):
        assert file.path.read_bytes() == b"b.csv"
        assert file.name == "b.csv"
        assert "secret" not in file.origin
    assert list((plain.home / "tmp").iterdir()) == []


def test_a_packed_file_stays_packed_whatever_the_server_calls_it(url, plain):
    with opened(f"{url}/packed.csv.gz", plain) as (file,):
        assert gzip.decompress(file.path.read_bytes()) == b"a,b\n1,2\n"


def test_a_url_that_is_not_there_is_a_wrong_call(url, plain):
    with pytest.raises(UsageError, match="404"), opened(f"{url}/none.csv?key=secret", plain):
        pass


@pytest.mark.parametrize("path", ["short.csv", "broken.csv"])
def test_a_server_that_fails_is_told_apart_and_nothing_half_is_left(url, plain, path):
    with pytest.raises(UnavailableError, match=path) as caught, opened(f"{url}/{path}?key=secret", plain):
        pass
    assert "secret" not in str(caught.value)
    assert list((plain.home / "tmp").iterdir()) == []


def test_a_server_that_is_away_is_unavailable(plain):
    with pytest.raises(UnavailableError, match="try again"), opened("http://127.0.0.1:1/a.csv", plain):
        pass


def test_the_home_itself_is_not_needed_before(tmp_path, folder):
    assert names(folder / "b.csv", Settings(home=tmp_path / "deep" / "home")) == ["b.csv"]
    assert Path(folder / "b.csv").exists()
