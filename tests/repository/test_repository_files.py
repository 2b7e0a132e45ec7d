"""Files beside the code say what the code says."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tgi_stack import __version__

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_the_citation_names_this_version() -> None:
    assert parsed(ROOT / "CITATION.cff")["version"] == __version__


def test_hooks_run_the_pinned_ruff() -> None:
    pin = re.search(r"^ruff==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pin is not None
    hooks = parsed(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert {version for hook in hooks for version in hook["additional_dependencies"]} == {pin[0]}


def test_each_claimed_python_is_tested() -> None:
    claimed = {c.rpartition(" ")[2] for c in project()["classifiers"] if "Python :: 3." in c}
    jobs = parsed(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert set(jobs["test"]["strategy"]["matrix"]["python"]) == claimed
    assert project()["requires-python"].removeprefix(">=") in claimed


@pytest.mark.parametrize("path", [*WORKFLOWS, *TEMPLATES], ids=lambda path: path.name)
def test_files_of_the_host_parse(path: Path) -> None:
    assert isinstance(parsed(path), dict)


def test_the_client_image_has_what_it_copies() -> None:
    lines = (ROOT / "docker" / "client.Dockerfile").read_text().splitlines()
    sources = [
        part
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for part in line.split()[1:-1]
    ]
    assert sources
    assert all((ROOT / source).exists() for source in sources)
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert all(f"!{source}" in allowed for source in sources)
    assert any(line.startswith("USER ") for line in lines)


def test_the_slurm_script_is_a_script(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    script = re.search(r"^```sh\n(#!.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert script is not None
    done = subprocess.run(["bash", "-n"], input=script[1], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
