"""The champion as a challenger meets it: its opened bundle, its version, and the request it is published with."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import ContractError, EvergreenError, RefusedError
from flows.ledger import Promotion
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import reference
from flows.steps.bundle import Bundle, load_bundle
from flows.steps.storage import folder


@dataclass(frozen=True)
class Champion:
    """The reigning champion; all None where there is none yet.

    ``fitted_until`` is the time of the last row that it was fitted on, None where nothing says so.
    """

    version: int | None = None
    bundle: Bundle | None = None
    digest: str | None = None
    fitted_until: datetime | None = None

    @property
    def request_schema(self) -> dict[str, str] | None:
        """The type of each field of a prediction request."""
        return {field.name: field.type for field in self.bundle.manifest.request} if self.bundle else None


def reigning(engine: Engine, spec: ModelSpec, purpose: str) -> Promotion:
    """Return the promotion in force; raises RefusedError, which names the purpose, if there is none."""
    champion = ledger.champion(engine, spec.name)
    if champion is None:
        raise RefusedError(f"{spec.name}: no champion to {purpose}; run `evergreen train --model {spec.name}` first")
    return champion


def load(settings: Settings, spec: ModelSpec, engine: Engine) -> Champion:
    """Open the champion of the ledger.

    Raises RefusedError if it cannot be opened: a challenger that was compared with nothing must not replace it.
    """
    promotion = ledger.champion(engine, spec.name)
    if promotion is None:
        return Champion()
    try:
        with folder(settings, promotion.model_uri) as files:
            opened = load_bundle(files, promotion.digest, settings.trusted_types)
    except EvergreenError as error:
        raise RefusedError(
            f"{spec.name}: the champion, version {promotion.version}, cannot be compared with: {error}"
        ) from error
    fitted_until = None
    with suppress(ContractError):  # monitoring tells of a reference that is torn
        fitted_until = reference.read(spec, promotion).drift.end
    return Champion(promotion.version, opened, promotion.digest, fitted_until)
