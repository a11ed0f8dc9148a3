"""The service's own copies of the bundles that it served, so that it can start and go on without their origin."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from flows.errors import EvergreenError, TamperedError
from flows.ledger import Promotion
from flows.settings import Settings
from flows.steps import storage
from flows.steps.bundle import MAX_MODEL_BYTES, MAX_SERVING_BYTES, MODEL, Bundle, load_bundle, load_for_serving
from flows.steps.compiled import COMPILED, MAX_COMPILED_BYTES
from flows.steps.files import replacing, write_text
from flows.steps.manifest import SERVING
from flows.steps.trusted import read_bytes

DIGEST = re.compile(r"[0-9a-f]{64}")
KEPT = 10  # copies on disk
LAST = "last.json"
CHECKED = "checked"  # lies in a copy whose estimator was loaded and came out as it was fitted
FILES = ((MODEL, MAX_MODEL_BYTES), (COMPILED, MAX_COMPILED_BYTES), (SERVING, MAX_SERVING_BYTES))


class BundleCache:
    """Copies of bundles in ``cache/<model>/<digest>/``, and in ``last.json`` the promotion that was served last."""

    def __init__(self, settings: Settings, model: str) -> None:
        self._settings = settings
        self._folder = settings.cache / model
        self._trusted_types = settings.trusted_types

    def fetch(self, promotion: Promotion) -> Bundle:
        """Return the bundle of a promotion, opened from its copy; the copy is made if there is none or it is damaged.

        Raises TamperedError or ContractError as ``load_bundle``; then no copy stays.
        """
        if not DIGEST.fullmatch(promotion.digest):
            raise TamperedError(
                f"promotion {promotion.sequence} has the digest {promotion.digest[:80]!r}, which is no sha256"
            )
        copy = self._folder / promotion.digest
        if copy.is_dir():
            try:
                return self._open(promotion)
            except EvergreenError:
                shutil.rmtree(copy)
        with storage.folder(self._settings, promotion.model_uri) as origin:
            self._copy(origin, copy)
        try:
            bundle = self._open(promotion)
        except EvergreenError as error:
            shutil.rmtree(copy)
            raise type(error)(str(error).replace(str(copy), promotion.model_uri)) from error
        self._prune(copy)
        return bundle

    def remember(self, promotion: Promotion) -> None:
        """Record the promotion that is served now."""
        write_text(self._folder / LAST, promotion.model_dump_json() + "\n")

    def last(self) -> tuple[Promotion, Bundle] | None:
        """Return the promotion that was served last and its bundle, from the copies alone; None if that cannot be."""
        promotion = self._remembered()
        try:
            return (promotion, self._open(promotion)) if promotion else None
        except (OSError, ValueError, EvergreenError):
            return None

    def _remembered(self) -> Promotion | None:
        try:
            promotion = Promotion.model_validate_json((self._folder / LAST).read_bytes())
        except (OSError, ValueError):
            return None
        return promotion if DIGEST.fullmatch(promotion.digest) else None

    def _open(self, promotion: Promotion) -> Bundle:
        """Open a copy: the first time with all checks of the estimator, later by its compiled form if it has one.

        So a start needs neither scikit-learn nor skops, whose import takes longer than all the rest.
        """
        copy = self._folder / promotion.digest
        if (copy / CHECKED).exists():
            bundle = load_for_serving(copy, promotion.digest)
            if bundle is not None:
                return bundle
        bundle = load_bundle(copy, promotion.digest, self._trusted_types)
        if bundle.compiled is None:
            return bundle
        write_text(copy / CHECKED, "")
        return replace(bundle, estimator=None)

    def _copy(self, origin: Path, copy: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".copy-", dir=self._folder))
        try:
            for name, most in FILES:
                if name == COMPILED and not (origin / name).exists():
                    continue  # scikit-learn itself serves this one
                data = read_bytes(origin / name, most)
                with replacing(temporary / name) as part:
                    part.write_bytes(data)
            try:
                temporary.rename(copy)
            except OSError:
                if not copy.is_dir():  # else another service of this home was faster
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _prune(self, newest: Path) -> None:
        """Keep the newest copies, and the one that is served, however many were on trial beside it since."""
        os.utime(newest)
        served = self._remembered()
        others = (path for path in self._folder.iterdir() if DIGEST.fullmatch(path.name))
        copies = [path for path in others if served is None or path.name != served.digest]
        for path in sorted(copies, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)
