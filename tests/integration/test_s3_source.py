"""S3 sources through s3fs, against a small server on the loopback interface that answers as S3 does."""

import http.server
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

from flows.errors import UnavailableError, UsageError
from flows.settings import Settings
from flows.steps.sources import opened

OBJECTS = {"raw/a.csv": b"x\n1\n", "raw/b.csv": b"x\n2\n", "raw/notes.txt": b"no data", "one.parquet": b"PAR1"}


class S3(http.server.BaseHTTPRequestHandler):
    """Answers HEAD and GET of objects, and the listing of a bucket named ``lake``."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = urlsplit(self.path)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        query = parse_qs(parts.query)
        if bucket == "closed":
            self.answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        elif bucket != "lake":
            self.answer(404, b"<Error><Code>NoSuchBucket</Code><Message>none</Message></Error>")
        elif key in OBJECTS:
            self.answer(200, OBJECTS[key])
        elif key:
            self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")
        else:
            self.answer(200, self.listing(query.get("prefix", [""])[0], query.get("delimiter", [""])[0]))

    def listing(self, prefix, delimiter):
        found = {key: body for key, body in OBJECTS.items() if key.startswith(prefix)}
        folders = {
            prefix + key[len(prefix) :].split("/")[0] + "/" for key in found if delimiter and "/" in key[len(prefix) :]
        }
        files = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(body)}</Size><ETag>e</ETag>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, body in found.items()
            if not any(key.startswith(folder) for folder in folders)
        )
        common = "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in sorted(folders))
        return (
            f"<ListBucketResult><Name>lake</Name><Prefix>{prefix}</Prefix><KeyCount>{len(found)}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{files}{common}</ListBucketResult>"
        ).encode()

    def answer(self, status, body):
        start, end = 0, len(body) - 1
        asked = self.headers.get("Range", "")
        if status == 200 and asked.startswith("bytes=") and body:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last or end), end), 206
        self.send_response(status)
        self.send_header("Content-Length", str(end - start + 1))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(body)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[start : end + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def bucket(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), S3)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    server.shutdown()
    server.server_close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def plain(tmp_path):
    return Settings(home=tmp_path / "home", http_timeout_seconds=3)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("s3://lake/raw/", ["a.csv", "b.csv"]),
        ("s3://lake/raw", ["a.csv", "b.csv"]),
        ("s3://lake/raw/b*.csv", ["b.csv"]),
        ("s3://lake/one.parquet", ["one.parquet"]),
    ],
)
def test_objects_of_a_bucket_are_copied_for_as_long_as_they_are_read(bucket, plain, source, names):
    with opened(source, plain) as files:
        assert [file.name for file in files] == names
        assert {file.path.read_bytes() for file in files} <= set(OBJECTS.values())
        assert all(file.origin.startswith("s3://lake/") for file in files)
    assert list((plain.home / "tmp").iterdir()) == []


@pytest.mark.parametrize("source", ["s3://lake/none.csv", "s3://lake/none/", "s3://closed/a.csv", "s3://none/a.csv"])
def test_what_is_not_there_or_not_allowed_is_a_wrong_call(bucket, plain, source):
    with pytest.raises(UsageError, match="check"), opened(source, plain):
        pass


def test_a_store_that_is_away_is_unavailable(bucket, plain, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UnavailableError, match="try again"), opened("s3://lake/one.parquet", plain):
        pass
