"""What makes a model of a training set, as it is on one machine: told by a digest, and compared by whoever works for another."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata

from flows.errors import ContractError
from flows.spec import ModelSpec

# What changes nothing of a model that is trained.
ASIDE = {
    "triggers",
    "costs",
    "rollout",
    "promotion",
    "gates",
    "slices",
    "description",
    "owner",
    "history_data",
    "request",
}


def code_of(spec: ModelSpec, factory: str | None = None) -> str:
    """Return the digest of all that makes a model of a training set: parameters, code and libraries, as they are here."""
    from flows.steps.lineage import LIBRARIES, sources_hash

    named = spec.model_dump_json(exclude=ASIDE)
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    maker = factory or spec.estimator
    return hashlib.sha256(repr([named, maker, sources_hash(spec, maker), libraries]).encode()).hexdigest()


def require(code: str, spec: ModelSpec, factory: str | None = None) -> None:
    """Raise ContractError unless what makes a model is here as it is where the digest ``code`` is from."""
    if code_of(spec, factory) != code:
        raise ContractError(
            f"{spec.name}: {platform.node()} has other code or libraries than the process that asks; bring it up to date, "
            "then run again"
        )
