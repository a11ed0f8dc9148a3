"""Pieces of work for Spark's workers, without Spark: what is answered, what is refused, and what a window asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from timeline_parts import SPEC, history

from flows.backtest import AT_ONCE, on_cluster, task_runner
from flows.errors import ContractError, EvergreenError, RefusedError, UnavailableError
from flows.settings import Settings
from flows.steps import same_code, spark
from flows.steps.backtest import on_spark
from flows.steps.backtest.kept import Place
from flows.steps.research.writing import UnwritableError
from flows.steps.spark_tasks import answered, settings_there


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def work(text: str) -> str:
    if text == "too few":
        raise RefusedError("there are too few: ingest more")
    if text == "of a kind of its own":
        raise UnwritableError("no name")
    if text == "broken":
        raise ValueError("this is no refusal")
    return text.upper()


def numbers(*ids: int) -> pa.RecordBatch:
    return pa.record_batch([pa.array(ids, pa.int64())], names=["id"])


def test_texts_are_answered_by_their_numbers_and_refusals_are_answers() -> None:
    asked = ["one", "too few", "of a kind of its own", "two"]
    rows = [row for batch in answered(work, asked, None, [numbers(3, 1), numbers(0, 2)]) for row in batch.to_pylist()]
    assert rows == [
        {"id": 3, "answer": "TWO", "refusal": None},
        {"id": 1, "answer": None, "refusal": "RefusedError: there are too few: ingest more"},
        {"id": 0, "answer": "ONE", "refusal": None},
        {"id": 2, "answer": None, "refusal": "ContractError: no name"},
    ]
    told = spark.refusal(*rows[1]["refusal"].split(": ", 1))
    assert type(told) is RefusedError
    assert str(told) == "there are too few: ingest more"


def test_what_is_no_refusal_is_raised_for_spark_to_try_again() -> None:
    with pytest.raises(ValueError, match="no refusal"):
        list(answered(work, ["one", "broken"], None, [numbers(0, 1)]))


@pytest.mark.parametrize("threads", [None, "3"])
def test_openmp_is_told_on_a_worker_what_it_is_told_where_the_work_is_asked_for(threads: str | None) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # as Spark does

    def threads_here(_: str) -> str:
        return str(os.environ.get("OMP_NUM_THREADS"))

    [batch] = answered(threads_here, [""], threads, [numbers(0)])
    assert batch["answer"].to_pylist() == [str(threads)]


@pytest.mark.parametrize("kind", ["Missing", "annotations", "__doc__"])
def test_an_error_of_an_unknown_kind_is_still_one_of_ours(kind: str) -> None:
    assert type(spark.refusal(kind, "said")) is EvergreenError


def test_a_worker_reaches_no_server_whatever_its_own_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, url in {
        "PROFILE": "local", "LEDGER_URL": "postgresql://db/one", "STORAGE_URL": "s3://bucket", "HOME": "elsewhere",
        "COMPUTE_URL": "spark://master:7077", "DASK_URL": "tcp://scheduler:8786", "MODEL_PACKAGES": '["other"]',
        "FEATURE_REGISTRY_URL": "postgresql://db/feast", "ONLINE_STORE_URL": "redis://cache",
        "MLFLOW_TRACKING_URI": "https://mlflow",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"EVERGREEN_{name}", url)
    there = settings_there(str(tmp_path), ("team.models",), ("team.Type",))
    alone = Settings().apart(tmp_path).model_copy(
        update={"model_packages": ("team.models",), "trusted_types": ("team.Type",)}
    )  # fmt: skip
    assert there == alone


def asked(settings: Settings, place: Place, code: str) -> str:
    return on_spark.Asked(
        home=str(settings.home), model_packages=settings.model_packages, trusted_types=(), place=place, step=0, judge=None,
        code=code,
    ).model_dump_json()  # fmt: skip


def test_a_worker_that_does_not_see_the_home_or_has_other_code_refuses(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    place = on_spark.keep(settings, history(20, lambda number: f"{number % 2}"))
    with pytest.raises(
        ContractError, match=r"^taxi: \S+ has other code or libraries [^\n]*; bring it up to date[^\n]*$"
    ):
        on_spark.trained(asked(settings, place, "0" * 64))
    away = Settings(home=tmp_path / "away")
    lost = place.model_copy(update={"record": place.record.replace(str(settings.home), str(away.home))})
    with pytest.raises(UnavailableError, match=r"^\S+ does not see the replay at [^\n]*share the home under one path"):
        on_spark.trained(asked(away, lost, "0" * 64))
    assert not away.home.exists()


def test_code_is_told_apart_by_what_makes_a_model_alone() -> None:
    code = same_code.code_of(SPEC)
    same_code.require(code, SPEC.model_copy(update={"description": "said otherwise", "owner": "another"}))
    for other in ({"params": {"max_iter": 7}}, {"metric": "log_loss"}):
        with pytest.raises(ContractError, match="other code"):
            same_code.require(code, SPEC.model_copy(update=other))
    with pytest.raises(ContractError, match="other code"):
        same_code.require(code, SPEC, "flows.models.bike.estimator:build")


def test_a_dask_cluster_that_is_named_trains_the_windows_before_spark(tmp_path: Path) -> None:
    both = Settings(home=tmp_path, compute_url="spark://master:7077", dask_url="tcp://scheduler:8786")
    assert not on_cluster(both)
    assert on_cluster(both.model_copy(update={"dask_url": ""}))
    neither = Settings(home=tmp_path)
    assert not on_cluster(neither)
    assert task_runner(neither)._max_workers == AT_ONCE
