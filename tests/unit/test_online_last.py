"""What an online store held last: the keys that were asked for last are kept, however early each came first."""

from types import SimpleNamespace

import pytest

from flows.steps import online_last
from flows.steps.online_last import LastValues


class Store:
    """Holds of each key its own number, until it is away."""

    is_quick = True
    gone = False

    def __call__(self, rows):
        if self.gone:
            raise ConnectionError("gone")
        return [[row["zone"] for row in rows]]

    def away(self):
        return None


def test_a_key_that_is_asked_for_again_outlives_those_that_came_after_it(monkeypatch):
    monkeypatch.setattr(online_last, "KEPT_ROWS", 3)
    store = Store()
    values = LastValues(store, SimpleNamespace(stored=[SimpleNamespace(keys=(("zone", "int"),))]))
    for zone in (1, 2, 3, 1, 4):
        assert values([{"zone": zone}]) == [[zone]]
    store.gone = True
    assert values([{"zone": 1}, {"zone": 2}, {"zone": 3}, {"zone": 4}]) == [[1, None, 3, 4]]


def test_a_store_that_never_answered_raises():
    store = Store()
    store.gone = True
    with pytest.raises(ConnectionError):
        LastValues(store, SimpleNamespace(stored=[]))([{"zone": 1}])
