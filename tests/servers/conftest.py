"""What tests of servers share: pauses between attempts that are as many as ever, and shorter."""

from __future__ import annotations

import pytest

from tgi_stack.backends.servers import endpoints, retry


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other as they do, a tenth of the time apart."""
    monkeypatch.setattr(retry, "FIRST_S", retry.FIRST_S / 10)
    monkeypatch.setattr(retry, "MOST_S", retry.MOST_S / 10)
    monkeypatch.setattr(endpoints, "REST_S", endpoints.REST_S / 10)
