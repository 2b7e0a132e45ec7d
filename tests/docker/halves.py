"""Runs the tests on a Docker engine in two halves at once, each on an engine and in namespaces of its own.

    python tests/docker/halves.py HOME [PYTEST'S OPTIONS]

Where FASTQWEN_VLLM names the environment of a real vLLM, what is tried is that one, and nothing else.

Much of what a half does is to wait. What one prints is shown when it has ended. The status is 0 where all
that ran passed, and something ran. Namespaces take with them whatever an engine leaves: rules, mounts,
processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HALVES = (("test_beside.py",), ("test_deaths.py", "test_jobs.py"))
WITH_A_REAL_VLLM = (("test_real_vllm.py",),)
ALONE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
NOTHING_RAN = 5  # of pytest


def main() -> None:
    home, *options = sys.argv[1:]
    running = []
    for files in WITH_A_REAL_VLLM if "FASTQWEN_VLLM" in os.environ else HALVES:
        printed = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the end of the process
        tests = [str((HERE / file).relative_to(ROOT)) for file in files]
        pytest = [sys.executable, "-m", "pytest", "-m", "docker", *tests, *options]
        inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", *pytest]
        environ = os.environ | {"FASTQWEN_DOCKER": home}
        started = subprocess.Popen([*ALONE, *inside], cwd=ROOT, env=environ, stdout=printed, stderr=printed)
        running.append((started, printed))
    statuses = []
    for process, printed in running:
        statuses.append(process.wait())
        printed.seek(0)
        print(printed.read().decode(errors="replace"), flush=True)
    ran = [status for status in statuses if status != NOTHING_RAN]
    sys.exit(max(map(abs, ran), default=NOTHING_RAN))


if __name__ == "__main__":
    main()
