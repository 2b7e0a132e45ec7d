"""One thing that was looked at, as `doctor` and `stack` tell it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """`state` is `ok`, `warning` or `failure`; `fix` is what to do where it is not ok.

    `status` is what a failure makes the command end with: 3 for this machine, 4 for servers.
    """

    state: str
    what: str
    detail: str
    fix: str = ""
    status: int = 4

    def as_dict(self) -> dict[str, str]:
        """For `--json`."""
        return {"state": self.state, "what": self.what, "detail": self.detail, "fix": self.fix}

    def __str__(self) -> str:
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.state}: {self.what} ({self.detail}){fix}"
