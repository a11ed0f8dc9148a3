"""Online features of a row that cannot be read or computed: other rows are read as before, by a store that is away too."""

from datetime import datetime

import pytest
from online_parts import make_online_store
from serving_parts import home

from deployments.service.features import OnlineFeatures
from flows.errors import UnavailableError
from flows.models.taxi.spec import spec

NAMES = ["pickup_minutes_mean_28d", "dropoff_minutes_mean_28d", "hour"]
ROW = {
    "lpep_pickup_datetime": datetime(2022, 1, 25, 8, 30), "PULocationID": 74, "DOLocationID": 42, "trip_distance": 2.4,
}  # fmt: skip


@pytest.fixture
def features(tmp_path):
    settings = home(tmp_path)
    make_online_store(settings)
    return OnlineFeatures(settings, spec)


def away(_rows):
    raise ConnectionError("the store is away")


def test_a_row_that_the_researchers_function_fails_on_leaves_what_was_read_for_others(features, monkeypatch):
    whole = features(NAMES, [ROW])
    monkeypatch.setattr(features._reader.values._store, "_read_one", lambda row: away(row))
    with pytest.raises(UnavailableError, match=r"request_features failed \(ValueError"):
        features(NAMES, [ROW | {"trip_distance": "far"}])
    assert features(NAMES, [ROW]) == whole
    assert "the store is away" in features.away()


@pytest.mark.parametrize("rows", [1, 2])
def test_a_row_without_its_key_has_no_features_and_is_no_fault_of_the_store(features, rows):
    found = features(NAMES, [ROW | {"PULocationID": None}, ROW][:rows])
    assert [found.columns[name][0] for name in NAMES] == [None, 9.0, 8.5]
    assert found.unknown[0] == ["pickup_zone", "route"]
    assert features.away() is None
    assert features(NAMES, [ROW]).columns == {
        "pickup_minutes_mean_28d": [9.0],
        "dropoff_minutes_mean_28d": [9.0],
        "hour": [8.5],
    }
