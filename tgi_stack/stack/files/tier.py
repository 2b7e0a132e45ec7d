"""The tier of the cache that `make up TIER=1` starts: who may use it, and where jobs of this host find it."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from tgi_stack.errors import DiskError
from tgi_stack.stack.files.declared import places
from tgi_stack.stack.files.writing import write_whole
from tgi_stack.stack.planning.beside import FIRST

# Names that no user of the gateway can bear: theirs have no colon.
JOBS = "host:jobs"
OBSERVER = "host:observer"
# What the client asks; nothing that shows others, changes the server or reads its files.
COMMANDS = (
    "-@all +get +mget +set +unlink +del +scan +dbsize +time +info +ping +auth +hello +select +client|setname"
)
ON_THE_WIRE = (
    "tier: it listens on 127.0.0.1 and speaks no TLS: users' keys pass there as they are, questions as "
    "digests, answers masked; from another machine: ssh -L, or a server of your own with rediss://"
)
USER_FILE = Path("secrets") / "tier_user"
USERS = Path("secrets") / "tier" / "users.acl"


@dataclass(frozen=True, slots=True)
class StackTier:
    """Where it is, and the file with the user that jobs of this host are."""

    port: int
    user_file: Path

    @property
    def url(self) -> str:
        """Without the user."""
        return f"redis://127.0.0.1:{self.port}/0"

    def user(self) -> tuple[str, str]:
        """The name and the password.

        Raises:
            OSError: the file can't be read, as by other users of this host.
        """
        name, _, password = self.user_file.read_text(encoding="utf-8").strip().rpartition(" ")
        return name, password


def found(files: tuple[Path, ...] | None = None) -> StackTier | None:
    """The tier of the stack that was planned last; None where it has none, or where we may not use it."""
    for file in places() if files is None else files:
        try:
            written = json.loads(file.read_text())
            tier = StackTier(int(written.get("tier_port") or FIRST["tier_port"]), file.parent / USER_FILE)
            if "tier" in written["extras"] and all(tier.user()):
                return tier
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def prepare(folder: Path, keys: dict[str, str]) -> None:
    """Writes who may use the tier: jobs of this host, and the gateway's users by their keys.

    Args:
        keys: users by their keys.
    """
    path = folder / USER_FILE
    tier = StackTier(0, path)
    try:
        password = tier.user()[1]
    except (OSError, UnicodeDecodeError):
        password = ""
    if not password:
        password = secrets.token_urlsafe(32)
        write_whole(path, f"{JOBS} {password}\n")
    by_user: dict[str, list[str]] = {JOBS: [password]}
    for key, user in keys.items():
        by_user.setdefault(user, []).append(key)
    lines = ["user default off", f"user {OBSERVER} on >observer resetchannels -@all +info +ping +auth"]
    for user, theirs in by_user.items():
        passwords = " ".join(f"#{hashlib.sha256(key.encode()).hexdigest()}" for key in theirs)
        lines.append(f"user {user} on {passwords} ~fq1:* resetchannels {COMMANDS}")
    try:
        (folder / USERS).parent.mkdir(exist_ok=True)
        (folder / USERS).parent.chmod(0o755)
    except OSError as error:
        raise DiskError(f"{folder / USERS}: {error.strerror}") from error
    write_whole(folder / USERS, "\n".join(lines) + "\n")


def digest_of_users(folder: Path) -> str:
    """What changes with who may use it."""
    try:
        return hashlib.sha256((folder / USERS).read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
