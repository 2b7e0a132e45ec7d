"""What the relay to adopted servers is given beside their addresses: their key, and whom it trusts."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tgi_stack.errors import DiskError
from tgi_stack.stack.files.writing import write_whole

FOLDER = Path("secrets") / "adopted"
KEY, ROOTS = FOLDER / "key", FOLDER / "ca.pem"


def keep(folder: Path, key: str | None, ca_file: Path | None, *, anew: bool = True) -> None:
    """Has the relay give this key and trust these certificates.

    Args:
        anew: for other servers than before, perhaps: what was left for those is gone.

    Raises:
        DiskError: a file can't be read or written.
    """
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        (folder / FOLDER).chmod(0o755)
        roots = None if ca_file is None else ca_file.read_text(encoding="utf-8")
        for place, content in ((folder / KEY, key), (folder / ROOTS, roots)):
            if content is not None:
                write_whole(place, content)
            elif anew:
                place.unlink(missing_ok=True)
    except (OSError, UnicodeDecodeError) as error:
        raise DiskError(f"{folder / FOLDER}: {error}") from error


def variables(folder: Path) -> dict[str, str]:
    """What the compose file takes from them: never what they hold."""
    found = [place.read_bytes() if place.is_file() else b"" for place in (folder / KEY, folder / ROOTS)]
    return {
        "ADOPTED_AUTH": "key" if found[0] else "no_key",
        "ADOPTED_ROOTS": "own_roots" if found[1] else "system_roots",
        # Others are another configuration: Compose makes the relay anew.
        "ADOPTED_OF": hashlib.sha256(b"\0".join(found)).hexdigest()[:16] if any(found) else "",
    }
