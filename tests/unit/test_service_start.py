"""The start of the service: what its home does not let it write is told in one line."""

import errno
import signal

import pytest

from deployments.service import __main__ as service


@pytest.fixture
def fails(monkeypatch, restored_environment):
    def fail(error):
        def serve_all(*_):
            raise error

        monkeypatch.setattr(service, "serve_all", serve_all)
        monkeypatch.setattr(signal, "signal", lambda *_: None)

    return fail


def test_a_home_that_is_read_only_is_told_without_a_traceback(fails, tmp_path, capsys):
    fails(OSError(errno.EROFS, "Read-only file system", str(tmp_path / "service-taxi.json")))
    assert service.main(["--home", str(tmp_path), "--port", "0"]) == 1
    assert "chown" in capsys.readouterr().err


def test_what_nobody_foresaw_keeps_its_traceback(fails, tmp_path):
    fails(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        service.main(["--home", str(tmp_path), "--port", "0"])
