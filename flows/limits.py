"""One run at a time: Prefect's concurrency limits by model, with leases that free themselves when their holder is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_client
from prefect.concurrency.sync import concurrency

from flows.errors import ConflictError

LEASE_SECONDS = 60.0  # the least that Prefect takes
PATIENCE_SECONDS = 90.0  # longer than a lease: who goes on after a crash meets the slot of its former self


@contextmanager
def alone(what: str, model: str, patience: float) -> Iterator[None]:
    """Hold the one slot of ``what`` for a model; raises ConflictError if another run holds it for longer than ``patience``.

    A lease is no fence, it can run out under a holder that was asleep: what must not happen twice is refused by the ledger.
    """
    name = f"{what}-{model}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    slot = concurrency(name, timeout_seconds=patience, lease_duration=LEASE_SECONDS, strict=True)
    try:
        slot.__enter__()
    except TimeoutError as error:
        raise ConflictError(f"{model}: another run of {what} is under way; try again when it has ended") from error
    try:
        yield
    finally:
        slot.__exit__(None, None, None)
