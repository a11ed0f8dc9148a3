"""The errors that a person is meant to read: what happened, where, and how to mend it."""

from __future__ import annotations


class EvergreenError(Exception):
    """A refusal or a failure with a known cause.

    The message is one line: what, where, how to mend it. ``exit_status`` is what the command line ends with.
    """

    exit_status = 1


class UsageError(EvergreenError):
    """The call itself is wrong: an unknown model, a bad option, a source that is not there."""

    exit_status = 2


class ContractError(EvergreenError):
    """A model's own files (spec, source, features, estimator) do not fit together."""


class BrokenCheckError(EvergreenError):
    """A data check could not be evaluated; it says nothing about the data and passes nothing."""


class ConflictError(EvergreenError):
    """Somebody else changed the ledger first (compare-and-set lost)."""


class RefusedError(EvergreenError):
    """An action that its preconditions do not allow, such as promoting a version that failed its gates."""


class CancelledError(EvergreenError):
    """A person cancelled the run in Prefect; what it had made is kept, and nothing follows from it."""


class TamperedError(EvergreenError):
    """A stored file is not the one that was recorded, or holds a type that nobody trusts."""


class UnavailableError(EvergreenError):
    """An outside system (server, store, network) did not answer in time."""
