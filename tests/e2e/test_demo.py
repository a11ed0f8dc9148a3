"""The README's first command, as a user runs it, with every outside connection refused; then what it left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

EVERGREEN = Path(sys.executable).with_name("evergreen")
STEPS = ["server", "land", "features", "train", "serve", "drift", "follow", "refuse", "rollback"]


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "PREFECT_"))} | more


def run(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(EVERGREEN), *arguments], env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def processes_of(home: Path) -> list[str]:
    """Return the command lines of living processes that work on a home."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("EVERGREEN_HOME") == str(home) or str(home) in " ".join(process.cmdline())
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the demo once and return its JSON, with the home, the terminal's text and the log of refused connections."""
    folder = tmp_path_factory.mktemp("demo")
    home, log, report = folder / "home", folder / "outside.log", folder / "demo.json"
    outside = str(Path(__file__).parent / "outside")
    done = subprocess.run(
        [str(EVERGREEN), "demo", "--home", str(home), "--json", str(report)],
        env=environment(PYTHONPATH=outside, OUTSIDE_LOG=str(log)), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    found = json.loads(report.read_text())
    print(f"demo: {found['seconds']} s")
    log_text = log.read_text() if log.exists() else ""
    return {
        **found,
        "status": done.returncode,
        "home": home,
        "terminal": done.stdout + done.stderr,
        "outside": log_text,
    }


def test_every_step_comes_out_as_expected(demo: dict[str, Any]) -> None:
    assert [(step["step"], step["ok"]) for step in demo["steps"]] == [(name, True) for name in STEPS]
    assert demo["ok"]
    assert demo["status"] == 0


def test_no_connection_left_the_machine(demo: dict[str, Any]) -> None:
    assert demo["outside"] == ""


def test_the_terminal_shows_each_step_and_where_to_look_and_no_traceback(demo: dict[str, Any]) -> None:
    for name in STEPS:
        assert f"✓ {name}" in demo["terminal"]
    for place in ("evergreen status", "mlflow ui", "prefect server start", "index.html"):
        assert place in demo["terminal"]
    assert "Traceback" not in demo["terminal"]


def test_no_process_is_left(demo: dict[str, Any]) -> None:
    assert processes_of(demo["home"]) == []


def test_status_tells_the_same(demo: dict[str, Any]) -> None:
    found = json.loads(run("status", "--json", "--home", str(demo["home"])).stdout)
    assert found["champion"]["version"] == 2
    assert {"version", "since", "run_id", "metrics"} <= set(found["champion"])
    assert found["champion"]["metrics"]["rmse"] > 0
    assert found["alias"] == "as the ledger says"
    assert (found["partitions"]["accepted"], found["partitions"]["quarantined"]) == (34, 1)
    assert found["service"] is None
    assert {"ingest", "featurize", "train", "promote", "rollback"} <= {one["flow"] for one in found["last_runs"]} | {
        "ingest", "featurize"
    }  # fmt: skip
    assert [one["version"] for one in found["promotions"]] == [2, 1, 2, 1]
    assert [one["kind"] for one in found["promotions"]] == ["promote", "rollback", "promote", "promote"]


def test_versions_and_partitions_are_listed(demo: dict[str, Any]) -> None:
    versions = json.loads(run("versions", "--json", "--home", str(demo["home"])).stdout)
    assert [(one["version"], one["state"]) for one in versions] == [(2, "champion"), (1, "served before")]
    refused = json.loads(run("partitions", "--status", "quarantined", "--json", "--home", str(demo["home"])).stdout)
    assert [one["key"] for one in refused] == ["2024-01-11"]
    assert "distance_miles" in refused[0]["reasons"][0]


def test_the_lineage_of_each_version_is_whole(demo: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{demo['home'] / 'mlflow.db'}", f"sqlite:///{demo['home'] / 'mlflow.db'}")
    for version, champion in ((1, None), (2, 1)):
        run_id = client.get_model_version("taxi", str(version)).run_id
        lineage = json.loads(Path(client.download_artifacts(run_id, "lineage.json")).read_text())
        assert lineage["champion_version"] == champion
        assert len(lineage["partitions"]) >= 27
        assert all(len(one["digest"]) == 64 and one["validation"] for one in lineage["partitions"])
        assert {"choose-window", "build-training-set", "fit", "evaluate", "judge"} <= {
            s["name"] for s in lineage["stages"]
        }
        assert all(stage["start"] <= stage["end"] and stage["executor"] for stage in lineage["stages"])
        assert lineage["features"]
        assert len(lineage["feature_definitions_sha256"]) == 64
        assert lineage["code"]["libraries"]["scikit-learn"]
    drift = json.loads(
        Path(client.download_artifacts(client.get_model_version("taxi", "2").run_id, "lineage.json")).read_text()
    )["reason"]
    assert "rmse" in drift or "error" in drift


def test_the_run_of_each_version_has_metrics_pictures_and_gates(demo: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{demo['home'] / 'mlflow.db'}", f"sqlite:///{demo['home'] / 'mlflow.db'}")
    run_of = client.get_run(client.get_model_version("taxi", "2").run_id)
    assert {"test_rmse", "train_rmse", "gate_baseline", "gate_champion", "champion_error"} <= set(run_of.data.metrics)
    assert {one.path for one in client.list_artifacts(run_of.info.run_id, "pictures")} == {
        "pictures/judging.png", "pictures/features.png"
    }  # fmt: skip
    assert int(client.get_model_version_by_alias("taxi", "champion").version) == 2


def test_no_version_promotion_or_prediction_is_without_its_whole_chain(
    demo: dict[str, Any], restored_environment: None
) -> None:
    from flows import database, ledger
    from flows.lookup import load_model
    from flows.settings import Settings
    from flows.steps import lineage_facts, lineage_graph, registry
    from flows.steps.lineage_facts import Answered
    from flows.steps.prediction_log import read_predictions

    home = Settings(home=demo["home"]).activate()
    spec, engine = load_model("taxi", home), database.connect(home)
    logged = read_predictions(home, spec).select(["request_id", "row", "at", "version", "prediction"]).to_pylist()
    promotions = {one.sequence: one.version for one in ledger.list_promotions(engine, "taxi")}
    versions = [one.version for one in registry.versions(home, "taxi")]
    assert logged
    assert {one["version"] for one in logged} <= set(versions) == set(promotions.values()) == {1, 2}
    answered = tuple(Answered(**one, role="served", request={}, unknown=()) for one in logged)
    chain = {
        "ingest", "partition", "validation", "featurize", "view", "service", "code", "libraries", "parameters", "training-set",
        "training", "step", "gate",
    }  # fmt: skip
    for version in versions:
        graph = lineage_graph.build(lineage_facts.of_version(home, spec, engine, version, answered))
        assert graph.gaps == ()
        sources: dict[str, list[str]] = {}
        for edge in graph.edges:
            sources.setdefault(edge.target, []).append(edge.source)
        behind: dict[str, set[str]] = {}

        def kinds(node: str, sources: dict[str, list[str]] = sources, behind: dict[str, set[str]] = behind) -> set[str]:
            if node not in behind:
                behind[node] = {node.partition(":")[0]}.union(*(kinds(one) for one in sources.get(node, [])))
            return behind[node]

        own = {f"promotion:{sequence}" for sequence, to in promotions.items() if to == version}
        answers = {f"prediction:{one['request_id']}:{one['row']}" for one in logged if one["version"] == version}
        assert own | answers <= {node.id for node in graph.nodes}
        for name in (f"version:{version}", *own, *answers):
            assert chain <= kinds(name), name
        assert all("promotion" in kinds(name) for name in answers)
        assert [node.id for node in graph.of("champion")] == (["champion:1"] if version == 2 else [])
        assert len(graph.of("partition")) == len(graph.of("validation")) == (27 if version == 1 else 34)
        assert Path(graph.card).is_file()
    told = run("lineage", "--prediction", logged[0]["request_id"], "--json", "--home", str(demo["home"]))
    assert json.loads(told.stdout)["request_id"] == logged[0]["request_id"]


@pytest.mark.long
def test_every_version_is_made_again_to_the_bit(demo: dict[str, Any], restored_environment: None) -> None:
    from flows import database
    from flows.lookup import load_model
    from flows.settings import Settings
    from flows.steps import registry, reproduction, version_record

    home = Settings(home=demo["home"]).activate()
    spec, engine = load_model("taxi", home), database.connect(home)
    made = registry.versions(home, "taxi")
    assert len(made) >= 2
    for version in made:
        record = version_record.read(home, "taxi", version.version)
        found = reproduction.remake(home, record, reproduction.examine(home, spec, engine, record))
        assert (found.same, found.causes) == (True, ()), found


def test_a_model_can_be_opened_with_mlflow_itself(demo: dict[str, Any]) -> None:
    code = (
        "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_registry_uri(sys.argv[1]);"
        "m = mlflow.pyfunc.load_model('models:/taxi@champion');"
        "import pandas as pd; names = m.metadata.get_input_schema().input_names();"
        "print(float(m.predict(pd.DataFrame([[1.0] * len(names)], columns=names))[0]))"
    )
    uri = f"sqlite:///{demo['home'] / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-c", code, uri], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert float(done.stdout.splitlines()[-1]) > 0, done.stderr


def test_a_home_that_was_used_since_is_not_overwritten(demo: dict[str, Any]) -> None:
    from flows import database, run_records
    from flows.settings import Settings

    engine = database.connect(Settings(home=demo["home"]))
    run_records.start(engine, run_id="mine", model="taxi", flow="train", reason="on demand", executor="me")
    run_records.end(engine, "mine", "completed", {})
    again = run("demo", "--home", str(demo["home"]))
    assert again.returncode == 2
    assert "was used after its demo" in again.stderr
    assert len(again.stderr.splitlines()) == 1
    assert (demo["home"] / "ledger.db").exists()


@pytest.mark.parametrize(
    "moment", ["the server starts", pytest.param("the first training runs", marks=pytest.mark.long)]
)
def test_ctrl_c_leaves_no_process(tmp_path: Path, moment: str) -> None:
    home = tmp_path / "home"
    process = subprocess.Popen(
        [str(EVERGREEN), "demo", "--home", str(home)], env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    signs = {
        "the server starts": lambda: (home / "prefect" / "server.log").exists(),
        "the first training runs": lambda: any(home.glob("stages/taxi/*/training_set.arrow")),
    }
    deadline = time.monotonic() + 240
    while not signs[moment]() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    time.sleep(1.0)
    assert processes_of(home) == []
