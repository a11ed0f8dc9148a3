"""Several processes that begin at the same moment: one imports what they need, then forks, then lets all go."""

import os
import subprocess
import sys
from collections.abc import Mapping

PARENT = """
import os, sys, traceback
{imports}
def work(number):
{body}
count = int(sys.argv[1])
gate, opener = os.pipe()
children = []
for number in range(count):
    pid = os.fork()
    if pid == 0:
        os.close(opener)
        os.read(gate, 1)  # ends when the last writer has closed it
        try:
            work(number)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(pid)
os.close(opener)
statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(statuses)
"""


def at_once(
    count: int, imports: str, body: str, environment: Mapping[str, str] | None = None, timeout: float = 240
) -> tuple[list[int], str]:
    """Run the body in so many processes at once; return their exit statuses (negative: a signal) and what they said.

    The body sees ``number``, that of its process.
    """
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARENT.format(imports=imports.strip(), body=indented), str(count)],
        env=os.environ | dict(environment or {}), capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(status) for status in done.stdout.splitlines()[-1].strip("[]").split(",")], done.stderr
