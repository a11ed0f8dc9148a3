"""Fault 21: a malicious pickle, also compressed; an artifact that trusts its own types; ``../..`` in paths.

Never loaded, no code runs. The files' hashes fit in every case, as if the attacker had registered the version: what
keeps them out is what is in them. A service that is told to serve such a version goes on with the one before.
"""

import bz2
import gzip
import io
import json
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from serving_parts import (
    ROW,
    archive,
    eventually,
    home,
    make_bundle,
    promote,
    replace_model,
    rewrite,
    serving,
    version_of,
)  # fmt: skip

from flows import database
from flows.errors import ContractError, EvergreenError, TamperedError
from flows.steps.bundle import load_bundle


class Payload:
    """Runs a shell command when it is unpickled."""

    def __init__(self, marker):
        self.command = f"touch {marker}"

    def __reduce__(self):
        return os.system, (self.command,)


def object_array(marker):
    """Return an npy file whose objects are pickled."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def schema(**content):
    """Return the schema of a skops file."""
    return json.dumps({"protocol": 2, "_skops_version": "0.16.0", **content})


def array_node(loader="NdArrayNode", **content):
    """Return a schema that names an array in a file."""
    return schema(__class__="ndarray", __module__="numpy", __loader__=loader, type="numpy", file="evil.npy", **content)


def call_of_system(loader, marker):
    """Return a schema that asks a loader of skops for ``os.system``."""
    command = json.dumps(f"touch {marker}")
    text = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": command, "is_json": True}
    args = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": [text]}
    return schema(
        __class__="system", __module__="posix", __loader__=loader, content=args, args=args, reduce={"args": args},
        attrs=args, constructor={"__class__": "system", "__module__": "posix", "__loader__": "TypeNode"},
    )  # fmt: skip


MODELS = {
    "pickle": lambda marker: pickle.dumps(Payload(marker)),
    "gzip": lambda marker: gzip.compress(pickle.dumps(Payload(marker))),
    "zlib": lambda marker: zlib.compress(pickle.dumps(Payload(marker))),
    "bzip2": lambda marker: bz2.compress(pickle.dumps(Payload(marker))),
    "pickle in a zip": lambda marker: archive({"schema.json": pickle.dumps(Payload(marker))}),
    "zip behind a pickle": lambda marker: pickle.dumps(Payload(marker)) + archive({"data.pkl": b""}),
    "object array": lambda marker: archive({"schema.json": array_node(), "evil.npy": object_array(marker)}),
    "pickle as array": lambda marker: archive({"schema.json": array_node(), "evil.npy": pickle.dumps(Payload(marker))}),
    "function": lambda marker: archive({"schema.json": call_of_system("FunctionNode", marker)}),
    "reduce": lambda marker: archive({"schema.json": call_of_system("ReduceNode", marker)}),
    "object": lambda marker: archive({"schema.json": call_of_system("ObjectNode", marker)}),
    "partial": lambda marker: archive({"schema.json": call_of_system("PartialNode", marker)}),
    "method": lambda marker: archive({"schema.json": call_of_system("MethodNode", marker)}),
    "way out": lambda _: archive({"schema.json": array_node(), "../../../evil.npy": b"x"}),
}


@pytest.fixture
def bundle(tmp_path):
    """A good bundle, to be made a bad one."""
    folder = tmp_path / "bundle"
    return folder, make_bundle(folder)


@pytest.mark.parametrize("kind", MODELS)
def test_a_malicious_model_is_refused_and_runs_nothing(kind, bundle, tmp_path):
    digest = replace_model(bundle[0], MODELS[kind](tmp_path / "ran"))
    with pytest.raises(EvergreenError, match=r"model\.skops"):
        load_bundle(bundle[0], digest)
    assert not (tmp_path / "ran").exists()


def test_the_payload_of_these_tests_would_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_an_artifact_cannot_trust_its_own_types(bundle, tmp_path):
    folder, _ = bundle
    data = archive({"schema.json": call_of_system("FunctionNode", tmp_path / "ran")})
    (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    skops_trusted_types: [posix.system]\n")
    with pytest.raises(TamperedError, match=r"nobody trusts: posix\.system"):
        load_bundle(folder, replace_model(folder, data))
    digest = rewrite(folder, lambda content: content.update(trusted_types=["posix.system"]))
    with pytest.raises(ContractError, match=r"serving\.json: trusted_types"):
        load_bundle(folder, digest)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("digest", ["../../outside", "/tmp", "", "A" * 64, "0" * 63 + "\n"])
def test_a_digest_that_is_none_leads_to_no_path(digest, bundle, tmp_path):
    settings = home(tmp_path / "home", follow_seconds=0.02)
    engine = database.connect(settings)
    promote(engine, bundle[0], digest, 1)
    before = sorted(path for path in tmp_path.rglob("*") if settings.home not in path.parents)
    with serving(settings) as client:
        error = eventually(lambda: client.get("/readyz").json()["error"])
        assert "which is no sha256" in error
    assert sorted(path for path in tmp_path.rglob("*") if settings.home not in path.parents) == before
    assert not settings.cache.exists()


def test_a_service_goes_on_with_the_version_before_and_keeps_no_copy(bundle, tmp_path):
    good, bad = tmp_path / "good", bundle[0]
    digest = replace_model(bad, MODELS["function"](tmp_path / "ran"))
    settings = home(tmp_path / "home", follow_seconds=0.02)
    engine = database.connect(settings)
    promote(engine, good, make_bundle(good, rows=700), 1)
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        promote(engine, bad, digest, 2)
        error = eventually(lambda: client.get("/readyz").json()["error"])
        assert "version 2 is refused, version 1 serves on" in error
        assert "posix.system" in error
        assert client.post("/predict", json=ROW).json()["version"] == 1
    assert [path.name for path in Path(settings.cache / "taxi").iterdir() if digest in path.name] == []
    assert not (tmp_path / "ran").exists()
