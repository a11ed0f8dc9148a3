"""An experiment's code as a change to the model's files: a commit on a branch of its own, or a patch file."""

from __future__ import annotations

from pathlib import Path

from flows.errors import RefusedError
from flows.lookup import resolve
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps.own_code import OURS, origin
from flows.steps.research import change, merging
from flows.steps.research.logged import Adoptable
from flows.steps.research.source import text_digest


class Adoption(Frozen):
    """The change that makes an experiment's code the model's: ``branch`` and ``commit`` in ``repository``, or ``patch``.

    ``files`` are relative to ``repository``, which is the folder to apply a patch in; ``hint`` says what to do next.
    """

    model: str
    run_id: str
    repository: str
    files: tuple[str, ...]
    branch: str | None
    commit: str | None
    patch: str | None
    hint: str

    def __repr__(self) -> str:
        place = f"branch {self.branch}, commit {self.commit[:12]}" if self.commit else f"patch {self.patch}"
        return f"{self.model}: {place} in {self.repository} changes {', '.join(self.files)}\n  {self.hint}"

    __str__ = __repr__


def adopt(settings: Settings, spec: ModelSpec, run_id: str, found: Adoptable, branch: str | None = None) -> Adoption:
    """Write an experiment's code in the place of the model's factory, and its parameters into the spec, as a change of its own.

    Where git has the model's files the change begins at HEAD; what is uncommitted is neither read nor touched. None of
    the code is run. Raises RefusedError where the files are a library's, hold what cannot be joined, or say the same,
    and where a module that the code imports is not committed as it was measured.
    """
    module = spec.estimator.partition(":")[0]
    estimator = _file(module)
    repository = change.repository(estimator)
    root = repository.root if repository else estimator.parents[len(module.split(".")) - 1]
    _check_imports(found, repository, root)
    before = {estimator: _text(repository, estimator)}
    after = {estimator: merging.merged(before[estimator], found.code, spec.estimator, {*OURS, module.split(".")[0]})}
    if found.params != spec.params:
        place = _file(_spec_module(settings, spec))
        if not place.is_relative_to(root):
            raise RefusedError(
                f"{place}, the spec, lies outside of {root}, where {module} is, and the experiment used {found.params}; set "
                "them in the spec, or give the model an estimator of its own"
            )
        before[place] = _text(repository, place)
        after[place] = _with_params(spec, before[place], place, found)
    after = {path: text for path, text in after.items() if text != before[path]}
    if not after:
        raise RefusedError(f"{run_id}: its code is the model's already; there is nothing to adopt")
    if repository is None:
        target = settings.home / "adopted" / f"{spec.name}-{run_id[:8]}.patch"
        patch = change.write_patch(before, after, root, target)
        hint = f"apply it: patch -p1 -d {root} < {patch}"
        return _adoption(spec, run_id, root, after, hint, patch=str(patch))
    name = branch or f"adopt-{spec.name}-{run_id[:8]}"
    commit = repository.commit(after, name, _message(spec, run_id, found))
    hint = f"look at it: git diff HEAD...{name}; then merge it, and run evergreen train --model {spec.name}"
    return _adoption(spec, run_id, root, after, hint, branch=name, commit=commit)


def _adoption(
    spec: ModelSpec,
    run_id: str,
    root: Path,
    after: dict[Path, str],
    hint: str,
    *,
    branch: str | None = None,
    commit: str | None = None,
    patch: str | None = None,
) -> Adoption:
    return Adoption(
        model=spec.name, run_id=run_id, repository=str(root), branch=branch, commit=commit, patch=patch, hint=hint,
        files=tuple(path.resolve().relative_to(root.resolve()).as_posix() for path in after),
    )  # fmt: skip


def _check_imports(found: Adoptable, repository: change.Repository | None, root: Path) -> None:
    """Raise RefusedError if a module that the code imports would be there without what was measured, or not at all."""
    for name, digest in found.imports.items():
        file = origin(name)
        if file is not None and not file.resolve().is_relative_to(root.resolve()):
            continue  # Evergreen's own, beside a team's repository
        text = _committed(repository, file) if file else None
        if text is None or text_digest(text) != digest:
            done = "there" if repository is None else "committed"
            raise RefusedError(
                f"the code imports {name}, which is not {done} as it was when the experiment ran; "
                f"{'commit it' if repository else 'put it back'}, or run the experiment again, then adopt again"
            )


def _file(module: str) -> Path:
    found = origin(module)
    if found is None:
        raise RefusedError(f"{module} is no file of yours (it is an installed library's); adopt where its source lies")
    return found.resolve()


def _spec_module(settings: Settings, spec: ModelSpec) -> str:
    """Return the module of a model's spec: the first of the settings' packages that has the model."""
    for package in settings.model_packages:
        name = f"{package}.{spec.name}.spec"
        if origin(name) is not None and resolve(f"{name}:spec") == spec:
            return name
    raise RefusedError(f"the file of {spec.name}'s spec is not there; adopt where its source lies")


def _text(repository: change.Repository | None, path: Path) -> str:
    found = _committed(repository, path)
    if found is None:
        raise RefusedError(f"{path} is not committed; commit it, then adopt again")
    return found


def _committed(repository: change.Repository | None, path: Path) -> str | None:
    """Return a file as it is committed, None if it is not; where there is no repository, as it is."""
    return repository.text(path) if repository else path.read_text(encoding="utf-8")


def _with_params(spec: ModelSpec, text: str, place: Path, found: Adoptable) -> str:
    made = merging.with_params(text, found.params)
    if made is None:
        raise RefusedError(
            f"{place} holds no params={{...}} in its ModelSpec(...), and the experiment used {found.params}, the spec "
            f"{spec.params}; write them there, then adopt again"
        )
    return made


def _message(spec: ModelSpec, run_id: str, found: Adoptable) -> str:
    """Return the message of the commit: what it does, and what the experiment came to."""
    lines = [f"{spec.name}: train with {found.name}", "", f"Experiment {run_id}: {found.verdict}."]
    if spec.training.trials:
        lines += [
            "",
            f"The spec tunes in {spec.training.trials} trials: {spec.search_space} must suggest what this code takes.",
        ]
    return "\n".join(lines) + "\n"
