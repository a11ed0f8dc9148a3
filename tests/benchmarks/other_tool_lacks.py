"""What our flow does that the same pipeline in Kedro does not; the first three lines are tried on both in each run."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from flows.steps.bench import Difference

if TYPE_CHECKING:
    from tests.benchmarks.other_tool import Kedro, Ours

LACKS = (
    Difference(
        what="one day with a renamed column, beside a good one",
        ours="the day is quarantined with its page; the good one is accepted, the flow goes on",
        other="the run ends with SchemaErrors, nothing is trained, until somebody takes the file away",
        shown="tried in this run",
    ),
    Difference(
        what="the same data again",
        ours="the version that was made of it is named, nothing is trained",
        other="trains again and registers the same model as another version",
        shown="tried in this run",
    ),
    Difference(
        what="a careless change (two rounds of boosting)",
        ours="refused by its gates, each with number and threshold; an MLflow run, no version",
        other="registered as a version; one number keeps the alias where it was",
        shown="tried in this run",
    ),
    Difference(
        what="what a version must pass",
        ours="baseline, paired interval beside the champion, slices, loading in a fresh process, equal predictions, API, latency",
        other="one error not above the champion's on the same rows",
        shown="tests/integration/test_training_flow.py",
    ),
    Difference(
        what="killed in mid-training",
        ours="the same command goes on after the last whole stage, if data and code are the same",
        other="begins again; `--from-nodes` by hand takes what files there are, and compares nothing",
        shown="tests/integration/test_resume.py",
    ),
    Difference(
        what="two promotions at once",
        ours="compare-and-set in the ledger: one wins, the other is told",
        other="the alias is the last writer's",
        shown="tests/faults/test_fault_05_two_promoters.py",
    ),
    Difference(
        what="rollback",
        ours="`evergreen rollback`: a row with who and why; the service follows",
        other="the alias is set by hand; nothing says what it was before",
        shown="tests/integration/test_training_flow.py",
    ),
    Difference(
        what="a served model",
        ours="answers the request's four fields; follows promotions without a restart; logs what it answered",
        other="`mlflow models serve` takes the 28 features, which the caller must know; a new version needs a restart",
        shown="tests/integration/test_service_process.py",
    ),
    Difference(
        what="features online",
        ours="written by the same definition that trains, compared with the offline join",
        other="none: features are files of the pipeline",
        shown="tests/integration/test_online_equals_offline.py",
    ),
    Difference(
        what="when to train again",
        ours="new data, schedule, error on late labels, drift, staleness; causes are merged and held back",
        other="Kedro has no scheduler and no monitoring: another tool starts `kedro run`",
        shown="tests/integration/test_monitor.py",
    ),
    Difference(
        what="a trial on live requests",
        ours="shadow and canary, judged by their labels",
        other="none",
        shown="tests/integration/test_trial_flow.py",
    ),
    Difference(
        what="where a version comes from",
        ours="partitions, files, code and libraries by hash; `evergreen reproduce` makes it again to the bit",
        other="parameters and metrics of the MLflow run",
        shown="tests/integration/test_reproduce.py",
    ),
)


def try_training(theirs: Kedro, ours: Ours) -> None:
    """Train on the same data again, and with a careless change; raises AssertionError if ``LACKS`` says it wrong."""
    known = len(ours.call("versions"))
    count, _ = theirs.versions()
    assert ours.call("train")["unchanged"]
    assert theirs.run().returncode == 0
    assert theirs.versions()[0] == count + 1
    champion = theirs.versions()[1]
    careless = ours.call("train", "--estimator", "flows.models.taxi.broken:build")
    assert careless["failed"]
    assert careless["version"] is None
    assert len(ours.call("versions")) == known
    assert theirs.run("--params", "estimator.max_iter=2").returncode == 0
    assert theirs.versions() == (count + 2, champion)


def try_broken_day(theirs: Kedro, ours: Ours, day: date, folder: Path) -> None:
    """Take a good day and a broken one; raises AssertionError if ``LACKS`` says it wrong."""
    from flows.models.taxi.simulator import rename_column, simulate_day

    folder.mkdir()
    next_day = day + timedelta(days=1)
    good, broken = folder / f"{day}.parquet", folder / f"{next_day}.parquet"
    simulate_day(day).to_parquet(good)
    rename_column(simulate_day(next_day)).to_parquet(broken)
    found = [one for path in (broken, good) for one in ours.call("ingest", str(path))]
    assert [one["status"] for one in found] == ["quarantined", "accepted"], found
    for path in (broken, good):
        shutil.copy(path, theirs.home / "data" / "raw")
    stopped = theirs.run()
    assert stopped.returncode
    assert "SchemaErrors" in stopped.stdout + stopped.stderr
