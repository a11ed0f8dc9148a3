"""What a person is shown of a training that was refused: by how much, and whether a champion stays; how a command is ended."""

import math
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from flows import show, show_backtest, terminal
from flows.run_records import Run
from flows.steps import gates, pages, status
from flows.steps.backtest import page

FOUND = {
    "version": None, "run_id": "r1", "reason": "test", "error": 5.0, "train_error": 4.0, "baseline_error": 4.5,
    "judge_rows": 100, "train_rows": 900, "promoted": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("version", "error", "words"), [(None, None, "there is no champion yet"), (3, 4.2, "the champion stays")]
)
def test_a_refused_training_tells_the_number_and_threshold_of_each_failed_gate(version, error, words):
    verdicts = [
        gates.judge("baseline", 1.111111, 0.9, "rmse 5, naive 4.5"),
        gates.judge("loads", 0.0, 0.0, "opened"),
        gates.judge("latency", math.nan, 20.0, "ms, median of one row"),
    ]
    found = FOUND | {"failed": gates.failed(verdicts), "refusals": gates.refusals(verdicts)}
    with terminal.console.capture() as captured:
        show.show_trained(found | {"champion_version": version, "champion_error": error})
    text = " ".join(captured.get().split())
    assert f"refused by: baseline, latency; {words} (MLflow run r1)" in text
    assert "baseline 1.111, at most 0.9: rmse 5, naive 4.5 latency nan, at most 20: ms, median of one row" in text
    assert "loads" not in text
    assert "judging rows" not in text


def test_classes_that_training_never_saw_are_told():
    found = FOUND | {"failed": ["baseline"], "refusals": [], "champion_version": None, "champion_error": None}
    with terminal.console.capture() as captured:
        show.show_trained(found | {"unseen": {"kiwi": 4, "grape": 8}})
    text = " ".join(captured.get().split())
    assert "12 judging rows are of classes that no row that trained has (grape 8, kiwi 4): the error, and what" in text


WATCHED = {
    "verdict": "No cause to retrain.", "reasons": [], "held": [], "data_problems": [], "skew": {"warning": ""},
    "report": "monitor.html", "training": None,
}  # fmt: skip
FIGURES = {
    "metric": "log_loss", "predictions": 1200, "labelled": 1000, "waiting": 200, "error": 0.1251, "expected": 0.12,
    "ratio": 1.0425, "ratio_interval": [0.97, 1.11], "degraded": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("performance", "told"),
    [
        (None, ""),
        (FIGURES | {"degraded": True}, ""),
        (
            FIGURES,
            "1,000 of 1,200 predictions have their label, 200 wait for theirs; log_loss 0.125 where 0.120 is to be expected: "
            "1.04 times (0.970 to 1.11) ",
        ),
        (
            FIGURES | {"ratio_interval": [0.97, None]},
            "1,000 of 1,200 predictions have their label, 200 wait for theirs; log_loss 0.125 where 0.120 is to be expected: "
            "1.04 times (0.970 to inf) ",
        ),
        (
            FIGURES | dict.fromkeys(("error", "expected", "ratio")) | {"labelled": 0, "ratio_interval": [None, None]},
            "0 of 1,200 predictions have their label, 200 wait for theirs ",
        ),
    ],
)
def test_monitoring_shows_the_error_beside_the_one_to_expect(performance, told):
    with terminal.console.capture() as captured:
        show.show_monitored(WATCHED | {"performance": performance})
    assert " ".join(captured.get().split()) == f"No cause to retrain. {told}report: monitor.html"


LOST = """
import os, signal, time
from flows.terminal import end_on_signals

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

end_on_signals()
try:
    held = Held()
    del held  # what is raised in here is lost
    time.sleep(10)
except KeyboardInterrupt:
    print("ended")
"""


def test_an_interrupt_that_python_loses_is_raised_again():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("ended\n", "", 0)


def test_a_trial_tells_its_median_times_in_milliseconds():
    found = {
        "version": 2, "kind": "canary", "share": 0.1, "state": "running", "outcome": None, "who": "a", "why": "b",
        "since": "2026-01-01T00:00:00+00:00",
        "counts": {"requests": 30, "failed": 0, "seconds": 0.006028283999967243, "champion_seconds": 0.005, "last_error": None},
    }  # fmt: skip
    with show.console.capture() as captured:
        show.show_trial(found)
    assert "b; requests 30, failed 0, median 6.0 ms, the champion's 5.0 ms" in " ".join(captured.get().split())


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"reason": "on demand", "error": "RefusedError: no rows"}, "on demand; RefusedError: no rows"),
        ({"reason": "", "error": "UsageError: no such file"}, "UsageError: no such file"),
        ({"reason": "weekly", "refused_by": ["baseline", "slices"]}, "weekly; refused by baseline, slices"),
        ({"reason": "weekly"}, "weekly"),
    ],
)
def test_the_status_says_why_a_run_began_and_what_it_ended_with(run, told):
    shown = {"flow": "train", "state": "failed", "started_at": "2026-01-01T00:00:00+00:00", "seconds": 1.0}
    found = {
        "model": "taxi", "description": "", "champion": None, "challenger": None, "trial": None, "alias": "none",
        "problems": [], "causes": [], "service": None, "last_runs": [shown | {"refused_by": [], "error": None} | run],
        "partitions": dict.fromkeys(("accepted", "landed", "rows", "rejected_rows", "first", "last"), 0)
        | {"quarantined": 3, "mended": 2},
    }  # fmt: skip
    with show.console.capture() as captured:
        show.show_status(found)
    table = captured.get().splitlines()
    assert "3 quarantined, 2 of them of periods that are accepted all the same" in " ".join(captured.get().split())
    start = next(number for number, text in enumerate(table) if text.startswith("last runs"))
    assert " ".join(" ".join(text[47:] for text in table[start + 1 :]).split()) == told


@pytest.mark.parametrize(
    ("service", "told"),
    [
        (None, "not running"),
        ({"url": "http://127.0.0.1:8300", "version": 3}, "http://127.0.0.1:8300 answers with version 3"),
        ({"url": "http://127.0.0.1:8300", "version": None}, "http://127.0.0.1:8300 has no version to answer with"),
    ],
)
def test_the_status_says_what_the_service_answers_with(service, told):
    assert show._service(service) == told


@pytest.mark.parametrize(
    ("state", "error", "told"),
    [("completed", 5.19, None), ("failed", "RefusedError: no rows", "RefusedError: no rows"), ("running", None, None)],
)
def test_the_figure_of_a_training_is_no_error_that_ended_it(state, error, told):
    run = Run(
        id="1", model="taxi", flow="train", reason="on demand", state=state, executor="a@b pid 1", summary={"error": error},
        started_at=datetime(2026, 1, 1, tzinfo=UTC), ended_at=None,
    )  # fmt: skip
    assert status.run(run)["error"] == told


@pytest.mark.parametrize(("given", "told"), [("", "passed all 8 gates"), ("better on rain", "better on rain")])
def test_a_promotion_without_a_reason_of_its_caller_tells_the_one_that_it_found(given, told):
    run = Run(
        id="1", model="taxi", flow="promote", reason=given, state="completed", executor="a@b pid 1",
        summary={"why": "passed all 8 gates"}, started_at=datetime(2026, 1, 1, tzinfo=UTC), ended_at=None,
    )  # fmt: skip
    assert status.run(run)["reason"] == told


def test_no_amount_of_a_backtest_is_folded_in_80_columns(monkeypatch):
    rows = [
        (name, pages.money(cost), pages.money(cost / 7), "70.4", "365", "12", "3", "1,024", pages.money(4.2e4))
        for name, cost in [("retrainopt-learned", 9_999_999.0), ("best in hindsight", 4_323_129_456.0)]
    ]
    monkeypatch.setattr(terminal.console, "width", 80)
    with terminal.console.capture() as captured:
        terminal.console.print(show_backtest._drawn(page.COLUMNS, rows, "taxi"))
    *_, first, second = captured.get().splitlines()
    for line, name, amounts in (
        (first, "retrainopt-learned", "9,999,999 1,428,571"),
        (second, "best in hindsight", "4,323.1 M 617.6 M"),
    ):
        assert line.split() == f"{name} {amounts} 70.4 365 12 3 1,024 42,000".split()


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        (0, "0"),
        (0.12345, "0.123"),
        (99.96, "100"),
        (9_999_999, "9,999,999"),
        (-12_345_678, "-12.3 M"),
        (5e10, "50.0 bn"),
    ],
)
def test_amounts_are_written_as_people_write_them(amount, written):
    assert pages.money(amount) == written
