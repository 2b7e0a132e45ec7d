"""The wheel holds all that it needs; nothing in it depends on the clone."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import CATALOGUE, ROOT

LIMIT_BYTES = 8 * 10**6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_works_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    """Installed beside the packages that are here already; `make test-wheel` installs those anew too."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    inside = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    here = sysconfig.get_paths()["purelib"]
    # Read as a path alone: a .pth of this environment (the editable clone) is not followed.
    (inside / "others.pth").write_text(f"{here}\n")
    program = tmp_path / "env" / "bin" / "fastqwen"
    command = [str(program), "summarize", str(CATALOGUE / "images"), "--limit", "2"]
    done = subprocess.run(
        [*command, "--engine", "torch", "--model", "tiny"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    where = [str(python), "-c", "import cli, cache, tgi_stack; print(cli.__file__, cache.__file__)"]
    shown = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert str(ROOT) not in shown


@pytest.mark.slow
def test_checkpoints_in_the_wheel_are_small_and_whole(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    for kind in ("text", "vision"):
        files = {name: size for name, size in sizes.items() if f"tiny/{kind}/" in name}
        assert sum(files.values()) <= LIMIT_BYTES
        assert {Path(name).name for name in files} >= {
            "config.json", "generation_config.json", "model.safetensors",
            "tokenizer.json", "chat_template.jinja", "README.md",
        }  # fmt: skip
    assert not [name for name in sizes if name.startswith(("tests/", "tools/", "examples/"))]
