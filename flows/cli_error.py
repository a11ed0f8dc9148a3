"""What is said of an error that ended a command: one line, what happened and how to mend it, and the exit status."""

from __future__ import annotations

import errno
import re

from flows.errors import EvergreenError

UNFORESEEN = "unforeseen"  # so begins the line of an error that nobody foresaw: whoever tells it keeps its traceback
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
# Errors of libraries that have one cause, by their first line, and how it is mended.
KNOWN = {
    "disk is full": "the disk is full ({line}); free some space, then run the same command again",
    "disk I/O error": "a database could not be read or written ({line}): its disk is full, or broken; `df` says which; free some "
    "space, then run the same command again",
    "readonly database": "a file may not be read or written ({line}); give it to the user that runs Evergreen (chown), mount its "
    "disk to be written to, or name another folder with --home",
    "database is locked": "a database of the home was held by another process for too long ({line}); end it, or wait for it, "
    "then run the same command again",
    "unable to open database file": "a database cannot be opened ({line}); correct its address, or the rights of its folder",
    "file is not a database|database disk image is malformed": "a database of the home is damaged ({line}); `evergreen doctor` "
    "says which and how to mend it",
    "No magic bytes|too small to be a Parquet|Parquet magic bytes|Invalid Parquet": "a file of the home is damaged ({line}); "
    "`evergreen doctor` says which and how to mend it",
    "schema mismatch in glob": "a file of the home has not the columns that were written ({line}); remove it, then ingest its "
    "source again, which makes it anew",
    r"Server error '5\d\d .*/api/": "the Prefect server failed ({line}); its log says why, its database or Redis may be "
    "away; mend it, then run the same command again",
    "Failed to reach API": "the Prefect server of PREFECT_API_URL does not answer ({line}); start it, or unset the variable",
}


def told(error: Exception) -> tuple[str, int]:
    """Return the line and the exit status; that of an error that nobody foresaw begins with ``UNFORESEEN``."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    if isinstance(error, EvergreenError):
        return " ".join(str(error).split()), error.exit_status
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        setting = f"setting EVERGREEN_{place.upper()}" if place else "settings"  # of one, or of several together
        return f"{setting}: {problem['msg'].removeprefix('Value error, ')}; correct it in the environment", 2
    if isinstance(error, SettingsError):
        name = re.search(r'"(\w+)"', str(error))
        setting = f"setting EVERGREEN_{name[1].upper()}" if name else "settings"
        return f'{setting}: it is no list in JSON; write it as ["one.name", "another.name"]', 2
    line = (str(error).splitlines() or [""])[0]
    if isinstance(error, OSError) and error.errno in FULL:
        return KNOWN["disk is full"].format(line=line), 1
    if isinstance(error, OSError) and error.errno in FORBIDDEN and error.filename:
        return KNOWN["readonly database"].format(line=line), 1
    for pattern, words in KNOWN.items():
        if re.search(pattern, line):
            return words.format(line=line), 1
    return f"{UNFORESEEN} {type(error).__name__}: {line}", 1
