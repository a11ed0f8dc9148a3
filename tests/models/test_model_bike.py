"""The bike model's own files fit together; what Evergreen promises of every model is tested elsewhere."""

from datetime import UTC, datetime, timedelta

import ibis
import numpy as np
import pandas as pd

from flows.models.bike import estimator, expectations, features
from flows.models.bike.spec import spec
from flows.steps.event_rows import compiled


def test_the_rows_give_all_that_is_asked_for() -> None:
    _, columns = compiled(spec)
    assert {field.name for field in spec.request} | {*spec.key, spec.label.name} <= {*columns}


def test_every_expectation_is_about_a_column_that_is_there() -> None:
    _, columns = compiled(spec)
    named = {rule.column for rule in expectations.suite().expectations}
    assert named
    assert named <= {*columns}


def test_missing_values_become_features() -> None:
    asked = {field.name: [field.example, None if not field.required else field.example] for field in spec.request}
    asked[spec.source.event_time] = [datetime.fromisoformat(text) for text in asked[spec.source.event_time]]
    found = features.request_features(asked)
    assert all(len(values) == 2 for values in found.values())
    pd.testing.assert_frame_equal(features.request_features(pd.DataFrame(asked)), pd.DataFrame(found))


def test_a_tick_knows_nothing_of_labels_that_came_later() -> None:
    tick = datetime(2024, 6, 1, tzinfo=UTC)
    times = [tick - spec.tick * number for number in (3, 2, 1, 0)]
    label = [1.0, 2.0, 3.0, 4.0]
    example = {field.name: [field.example] * 4 for field in spec.request}
    known = [times[0], times[1], tick + timedelta(minutes=1), times[3]]  # the third comes too late
    table = example | {spec.label.name: label, "event_timestamp": times, "label_timestamp": known}
    rows = ibis.memtable(pd.DataFrame(table))
    ticks = ibis.memtable(pd.DataFrame({"tick": [tick]}))
    for view, past in features.TABLES.items():
        (found,) = past(rows, ticks).to_pandas().to_dict("records")
        assert max(value for name, value in found.items() if name.endswith(("_rows_28d", "_rows_28h"))) == 2, view


def test_the_estimator_copes_with_missing_values() -> None:
    asked = {field.name: [field.example] * 60 for field in spec.request}
    asked[spec.source.event_time] = list(pd.date_range("2024-01-01", periods=60, freq="h"))
    frame = pd.DataFrame(features.request_features(asked)).assign(past=[np.nan, 1.0] * 30)
    label = np.array([1.0, 2.0] * 30)
    fitted = estimator.build(spec.params).fit(frame, label)
    assert len(fitted.predict(frame)) == 60
