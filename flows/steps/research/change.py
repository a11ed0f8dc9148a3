"""A change to files as a commit on a branch of its own, or as a patch file; work tree, index and HEAD stay as they are."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from difflib import unified_diff
from pathlib import Path

from flows.errors import RefusedError, UnavailableError, UsageError
from flows.steps.files import write_text
from flows.steps.git import git


class Repository:
    """A git repository with a commit, by the folder of its work tree; all reading is of ``HEAD``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, path: Path) -> str | None:
        """Return a file as it is committed, None if it is not."""
        done = self._run("cat-file", "blob", f"HEAD:{self._name(path)}")
        return done.stdout if done.returncode == 0 else None

    def commit(self, texts: Mapping[Path, str], branch: str, message: str) -> str:
        """Commit changed files onto a new branch that begins at HEAD, and return the commit's hash.

        The same change on the branch that is there already is that commit. Raises UsageError for a name that no branch may
        have, RefusedError if the branch holds another change, UnavailableError if git fails.
        """
        if self._run("check-ref-format", "--branch", branch).returncode:
            raise UsageError(f"{branch!r} is no name of a branch; give another")
        head = self._done("rev-parse", "--verify", "HEAD")
        with tempfile.TemporaryDirectory(prefix="evergreen-") as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
            self._done("read-tree", "HEAD", **index)
            for path, text in texts.items():
                name = self._name(path)
                mode = self._done("ls-tree", "HEAD", "--", name).split()[0]
                blob = self._done("hash-object", "-w", "--stdin", "--path", name, text=text)
                self._done("update-index", "--cacheinfo", f"{mode},{blob},{name}", **index)
            tree = self._done("write-tree", **index)
        known = self._run("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}").stdout.strip()
        if known:
            if self._done("rev-parse", f"{known}^{{tree}}") == tree:
                return known
            raise RefusedError(
                f"the branch {branch} is there and holds another change; delete it, or name another branch"
            )
        commit = self._done("commit-tree", tree, "-p", head, "-F", "-", text=message)
        self._done("update-ref", f"refs/heads/{branch}", commit, "")  # only if nobody else has made it meanwhile
        return commit

    def _name(self, path: Path) -> str:
        return path.resolve().relative_to(self.root).as_posix()

    def _done(self, *arguments: str, text: str = "", **environment: str) -> str:
        done = self._run(*arguments, text=text, **environment)
        if done.returncode:
            said = " ".join(done.stderr.split())[:300] or f"status {done.returncode}"
            raise UnavailableError(f"git {arguments[0]} in {self.root} failed: {said}; mend that, then adopt again")
        return done.stdout.strip()

    def _run(self, *arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return git(self.root, *arguments, text=text, **environment)


def repository(path: Path) -> Repository | None:
    """Return the repository that has committed a file, None if none has."""
    try:
        done = git(path.resolve().parent, "rev-parse", "--show-toplevel")
    except FileNotFoundError:  # no git here
        return None
    if done.returncode:
        return None
    found = Repository(Path(done.stdout.strip()).resolve())
    return None if found.text(path) is None else found


def write_patch(before: Mapping[Path, str], after: Mapping[Path, str], root: Path, target: Path) -> Path:
    """Write the change of some files as a patch that ``patch -p1`` applies in a folder, atomically; return its path."""
    text = ""
    for path, new in after.items():
        name = path.resolve().relative_to(root.resolve()).as_posix()
        for line in unified_diff(
            before[path].splitlines(keepends=True), new.splitlines(keepends=True), f"a/{name}", f"b/{name}"
        ):
            text += line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
    return write_text(target, text)
