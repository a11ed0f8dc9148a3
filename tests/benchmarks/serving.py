"""The service beside a FastAPI echo and ``mlflow models serve`` on the same model: requests a second and p50, by wrk.

``uv run python -m tests.benchmarks.serving HOME [--rounds N] [--seconds S] [--json FILE]``

HOME is a home with a promoted version and a filled online store. Servers have one core, wrk has another; one server is
asked at a time, in turns, so that each round is a fair comparison. Ratios are medians over the rounds. The echo is a
FastAPI route that returns a constant of the size of an answer through orjson, on the same uvicorn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from flows import database, ledger
from flows.lookup import load_model
from flows.settings import Settings, load
from flows.spec import ModelSpec
from flows.steps.bench import Figure, compared
from flows.steps.manifest import Manifest
from flows.steps.processes import free_port, stop

ECHO = """
import orjson, uvicorn
from fastapi import FastAPI, Response
app = FastAPI()
ANSWER = {answer!r}
@app.post("/echo")
async def echo() -> Response:
    return Response(orjson.dumps(ANSWER), media_type="application/json")
uvicorn.run(app, port={port}, log_level="warning", access_log=False)
"""


@contextmanager
def server(command: list[str], url: str, core: int, environment: dict[str, str] | None = None) -> Iterator[float]:
    """Run a server on one core; yield the seconds until ``url`` answered 200 or 405."""
    began = time.perf_counter()
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], env=os.environ | (environment or {}), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            if process.poll() is not None or time.perf_counter() - began > 120:
                raise SystemExit(f"{' '.join(command[:4])} did not start")
            try:
                if httpx.get(url, timeout=2).status_code in (200, 405):
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        yield time.perf_counter() - began
    finally:
        stop(process)


def wrk(url: str, body: bytes, connections: int, seconds: float, core: int, folder: Path) -> tuple[float, float]:
    """Return requests a second and the median latency in milliseconds; raises SystemExit if an answer was no 2xx."""
    script = folder / "post.lua"
    quoted = body.decode().replace("\\", "\\\\").replace("'", "\\'")
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{quoted}'\nwrk.headers['Content-Type'] = 'application/json'\n",
        encoding="utf-8",
    )
    said = subprocess.run(
        ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script), url],
        capture_output=True, text=True, check=True, timeout=seconds + 30,
    ).stdout  # fmt: skip
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{url}: {said}")
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)\n", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert median
    assert rate
    return float(rate[1]), float(median[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[median[2]]


def bodies(spec: ModelSpec, manifest: Manifest) -> dict[str, bytes]:
    """Return the request bodies: ready features, request fields, and MLflow's form of one row and of a hundred."""
    rows = [row for row in manifest.golden.inputs if None not in row] or list(manifest.golden.inputs)
    many = [rows[place % len(rows)] for place in range(100)]
    names = list(manifest.feature_names)
    return {
        "ready": json.dumps({"features": dict(zip(names, rows[0], strict=True))}).encode(),
        "online": json.dumps({field.name: field.example for field in spec.request}).encode(),
        "mlflow 1": json.dumps({"dataframe_split": {"columns": names, "data": rows[:1]}}).encode(),
        "mlflow 100": json.dumps({"dataframe_split": {"columns": names, "data": many}}).encode(),
    }


def measure(home: Settings, spec: ModelSpec, rounds: int, seconds: float) -> dict[str, Any]:
    """Return all figures of all rounds, and what they come to."""
    promotion = ledger.champion(database.connect(home), spec.name)
    if promotion is None:
        raise SystemExit(f"{home.home} has no champion")
    folder = Path(promotion.model_uri)
    manifest = Manifest.model_validate_json((folder / "serving.json").read_bytes())
    sent = bodies(spec, manifest)
    ours, echo, mlflow = free_port(), free_port(), free_port()
    service = [
        sys.executable,
        "-m",
        "deployments.service",
        "--model",
        spec.name,
        "--home",
        str(home.home),
        "--port",
        str(ours),
    ]
    python = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    starts = []
    for _ in range(3):
        with server(service, f"http://127.0.0.1:{ours}/readyz", 0) as took:
            starts.append(took)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as temporary:
        stack.enter_context(server(service, f"http://127.0.0.1:{ours}/readyz", 0))
        answer = httpx.post(f"http://127.0.0.1:{ours}/predict", content=sent["ready"]).raise_for_status().json()
        command = [sys.executable, "-c", ECHO.format(answer=answer, port=echo)]
        echo_starts = []
        for _ in starts:
            with server(command, f"http://127.0.0.1:{echo}/echo", 0) as took:
                echo_starts.append(took)
        stack.enter_context(server(command, f"http://127.0.0.1:{echo}/echo", 0))
        stack.enter_context(
            server(
                [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local", "--port",
                 str(mlflow), "--workers", "1"], f"http://127.0.0.1:{mlflow}/ping", 0, python,
            )
        )  # fmt: skip
        at = f"http://127.0.0.1:{ours}"
        asked: dict[str, tuple[str, bytes, int]] = {
            **{f"echo, {count}": (f"http://127.0.0.1:{echo}/echo", sent["ready"], count) for count in (1, 8)},
            **{f"ready, {count}": (f"{at}/predict", sent["ready"], count) for count in (1, 8)},
            **{f"online, {count}": (f"{at}/predict", sent["online"], count) for count in (1, 8)},
            "ours 1, 1": (f"{at}/invocations", sent["mlflow 1"], 1),
            "ours 100, 1": (f"{at}/invocations", sent["mlflow 100"], 1),
            "mlflow 1, 1": (f"http://127.0.0.1:{mlflow}/invocations", sent["mlflow 1"], 1),
            "mlflow 100, 1": (f"http://127.0.0.1:{mlflow}/invocations", sent["mlflow 100"], 1),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
        for url, body, count in asked.values():  # warm up
            wrk(url, body, count, 1, 1, Path(temporary))
        load_average = []
        for _ in range(rounds):
            for name, (url, body, count) in asked.items():
                found[name].append(wrk(url, body, count, seconds, 1, Path(temporary)))
            load_average.append(os.getloadavg()[0])
        record = json.loads((home.home / f"service-{spec.name}.json").read_text(encoding="utf-8"))
        memory = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{record['pid']}/status").read_text())[1]) / 1024
    return {
        "start_seconds": starts, "echo_start_seconds": echo_starts, "memory_mib": round(memory),
        "load_average": load_average, "rounds": found,
        "medians": {name: [statistics.median(one) for one in zip(*values, strict=True)] for name, values in found.items()},
        "ratios": {**against_echo(found), **against_mlflow(found)},
    }  # fmt: skip


def against_echo(found: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Return requests a second and p50 of our requests over the echo's, median over the rounds."""
    ratios = {}
    for kind in ("ready", "online"):
        for count in (1, 8):
            pairs = list(zip(found[f"{kind}, {count}"], found[f"echo, {count}"], strict=True))
            ratios[f"{kind}, {count}: requests/s over echo"] = statistics.median(us[0] / echo[0] for us, echo in pairs)
            ratios[f"{kind}, {count}: p50 over echo"] = statistics.median(us[1] / echo[1] for us, echo in pairs)
    return ratios


def against_mlflow(found: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Return requests a second over those of ``mlflow models serve``, one row and a hundred, median over the rounds."""
    return {
        f"{name} over {other}": statistics.median(
            us[0] / theirs[0] for us, theirs in zip(found[name], found[other], strict=True)
        )
        for name, other in (("ready, 1", "mlflow 1, 1"), ("ours 1, 1", "mlflow 1, 1"), ("ours 100, 1", "mlflow 100, 1"))
    }


def figures() -> list[Figure]:
    """Return the service's figures on a small taxi model that is trained for them."""
    if not shutil.which("wrk"):
        raise SystemExit("the program wrk is missing; install it, such as by `apt-get install wrk`")
    from flows.steps.prefect_server import prefect_server
    from tests.benchmarks import training

    with tempfile.TemporaryDirectory() as folder:
        home = Settings(home=Path(folder) / "home").activate()
        with prefect_server(home):
            training.prepare(home, 30_000)
            training.flow_run()
        found = measure(home, load_model("taxi", home), 3, 3)
    rounds: dict[str, list[tuple[float, float]]] = found["rounds"]
    rate = {name: [one[0] for one in values] for name, values in rounds.items()}
    asked = (
        ("one row, features in the request", "ready, 1", "echo, 1", "FastAPI echo"),
        ("one row, features read online", "online, 1", "echo, 1", "FastAPI echo"),
        ("the same, 8 connections", "online, 8", "echo, 8", "FastAPI echo"),
        ("one row in MLflow's form", "ours 1, 1", "mlflow 1, 1", "mlflow models serve"),
        ("100 rows in MLflow's form", "ours 100, 1", "mlflow 100, 1", "mlflow models serve"),
    )
    made = [
        compared(name, beside, rate[ours], rate[other], "requests/s", better="higher")
        for name, ours, other, beside in asked
    ]
    start = compared("service's start to ready", "FastAPI echo", found["start_seconds"], found["echo_start_seconds"])
    return [*made, start]


def main() -> None:
    """Print the medians and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--model", default="taxi")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    home = load(options.home)
    found = measure(home, load_model(options.model, home), options.rounds, options.seconds)
    starts = ", ".join(f"{one:.2f}" for one in found["start_seconds"])
    print(f"start to ready {starts} s, memory {found['memory_mib']} MiB, load {found['load_average']}")
    for name, (rate, median) in found["medians"].items():
        print(f"{name:16} {rate:9.0f} requests/s   p50 {median:7.3f} ms")
    for name, ratio in found["ratios"].items():
        print(f"{name:40} {ratio:7.2f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
