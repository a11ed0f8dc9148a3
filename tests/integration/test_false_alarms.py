"""How often monitoring calls calm days changed, and how soon changed ones: day after day through the steps of the flow."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from test_monitor import FEATURES, FIRST, KNOWN, train_champion, trips

from flows import database, ledger
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import decision, drift, labels, performance, reference
from flows.steps.bundle import load_bundle
from flows.steps.files import write_parquet

pytestmark = pytest.mark.long

CALM_DAYS = 200
MOST_ALARMS = 2
SOON_DAYS = 2


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    """Return the ledger's champion, trained on the first days, and its bundle."""
    home = Settings(home=tmp_path_factory.mktemp("alarms"))
    folder = home.home / "bundle"
    digest = train_champion(folder, trips(0, KNOWN))
    promotion = ledger.promote(
        database.connect(home), model="taxi", expected=None, kind="promote", version=1, run_id="r", model_uri=str(folder),
        digest=digest, who="test", why="first", evidence={"error": 3.3},
    )  # fmt: skip
    return promotion, load_bundle(folder, digest)


def alarms(champion, rows: pd.DataFrame, folder: Path) -> dict[int, list[str]]:
    """Return by day, from 0 on, the causes to retrain that monitoring finds at its end, of the labels known by then."""
    promotion, bundle = champion
    known = reference.read(spec, promotion)
    day = (rows["lpep_pickup_datetime"].dt.date - (FIRST + timedelta(days=KNOWN))).map(lambda age: age.days)
    answered = rows.drop(columns=["label", "label_timestamp", "minutes"]).assign(
        prediction=bundle.scores(rows[list(FEATURES)]), version=1, row=0, at=rows["event_timestamp"],
        request_id=np.arange(len(rows)).astype(str),
    )  # fmt: skip
    files = {}
    for number, landed in rows.groupby(day):
        table = pa.Table.from_pandas(landed.drop(columns=list(FEATURES)), preserve_index=False)
        files[number] = str(write_parquet(table, folder / f"{number:03}.parquet"))
    found = {}
    for today in range(max(day) + 1):
        # Trips of today are labelled when they are landed, a day later.
        landed = [files[number] for number in range(today - spec.triggers.window_days - 1, today) if number in files]
        seen = pa.Table.from_pandas(answered[(day <= today) & (day > today - 14)], preserve_index=False)
        joined = labels.join_labels(spec, labels.newest(seen, 1, spec.triggers.window_days), landed)
        newest = labels.whole_days(joined, spec.triggers.drift_days)
        moved = drift.compare(known.drift, newest, spec.triggers, labels.labelled(newest))
        judged = performance.assess(spec, joined, known.expected)
        facts = decision.gather(spec.triggers, judged, moved, promotion, known.drift.end, [], [], database.now())
        causes = decision.findings(facts, spec.triggers)
        found[today] = [kind for kind in causes if kind in ("performance", "distribution")]
    return found


def test_of_two_hundred_calm_days_at_most_two_raise_an_alarm(champion, tmp_path):
    found = alarms(champion, trips(KNOWN, KNOWN + CALM_DAYS), tmp_path)
    raised = {day: kinds for day, kinds in found.items() if kinds}
    print(json.dumps({"calm days": len(found), "alarms": len(raised), "on": raised}))
    assert len(found) >= CALM_DAYS
    assert len(raised) <= MOST_ALARMS


def test_the_drift_of_the_demo_is_seen_within_two_days(champion, tmp_path):
    found = alarms(champion, trips(KNOWN, KNOWN + 7, roads_changed=True), tmp_path)
    first: dict[str, int] = {}
    for day, kinds in found.items():
        first |= {kind: day + 1 for kind in kinds if kind not in first}
    print(json.dumps({"days after the change": first}))
    assert min(first.values()) <= SOON_DAYS
