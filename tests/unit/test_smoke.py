"""What the smoke test says of a service that is not there behind its proxy."""

import httpx
import pytest

from flows.errors import UnavailableError
from flows.models.taxi.spec import spec
from flows.steps.smoke import smoke


def test_a_proxy_without_a_service_behind_it_is_told_as_not_ready(monkeypatch):
    proxy = httpx.MockTransport(lambda _: httpx.Response(502, html="<h1>502 Bad Gateway</h1>"))
    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: client(transport=proxy, **options))
    with pytest.raises(UnavailableError, match=r"http://proxy is not ready \(502\)"):
        smoke("http://proxy", spec, 0.1, 250)
