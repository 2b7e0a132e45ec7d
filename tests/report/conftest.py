"""A real browser, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

AXE = "axe-core@4.14.1"
KEPT = Path(__file__).resolve().parents[2] / "out" / "npm"
NPM_S = 60
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(
    scope="module"
)  # Playwright's event loop runs as long as it does: other modules have their own
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright; nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser: pip install playwright")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core, which checks accessibility."""
    script = KEPT / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no axe-core: npm is not there")
        asked = [npm, "install", "--no-save", "--ignore-scripts", "--prefix", str(KEPT), AXE]
        try:
            subprocess.run(asked, check=True, capture_output=True, timeout=NPM_S)
        except (OSError, subprocess.SubprocessError):
            pytest.skip(f"no axe-core: npm can't install {AXE} from here")
    return script.read_text(encoding="utf-8")
