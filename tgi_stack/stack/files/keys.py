"""Files of docker/secrets: the token, the users' keys, the certificate; and who can read what is mounted."""

from __future__ import annotations

import re
from pathlib import Path

from tgi_stack.errors import DiskError, UsageError

_USER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[A-Za-z0-9_-]{20,256}")


def refuse_closed_files(folder: Path) -> None:
    """Raises DiskError for a mounted file that a container's root without capabilities can't read."""
    mounted = [*folder.glob("*.sh"), *folder.glob("*.py")]
    for name in ("caddy", "grafana", "prometheus"):
        mounted += [folder / name, *(folder / name).rglob("*")]
    closed = [path for path in mounted if not path.stat().st_mode & 0o004]
    if closed:
        raise DiskError(
            f"{closed[0]} is closed to other users, containers can't read it; chmod -R go+rX {folder}"
        )


def prepare(folder: Path) -> None:
    """The folder of secrets, closed to other users; its files open, to be read in containers.

    A container's root without capabilities reads no file of another user that is closed; the folder's own
    permissions keep the files from the users of this host.
    """
    secrets = folder / "secrets"
    try:
        (secrets / "tls").mkdir(parents=True, exist_ok=True)
        secrets.chmod(0o700)
        (secrets / "hf_token").touch()
        (secrets / "gateway.keys").unlink(missing_ok=True)  # an earlier release's
        for path in secrets.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    except OSError as error:
        raise DiskError(f"{secrets}: {error.strerror}") from error


def users(folder: Path) -> dict[str, str]:
    """Whom secrets/keys (a user and a key a line) lets in at the gateway, by keys; a user may have several.

    The doorkeeper reads the file itself, also when it changes; it passes over what is refused here.

    Raises:
        UsageError: no keys, or a line that is none; the message holds no key.
    """
    path = folder / "secrets" / "keys"
    make = f"printf 'alice %s\\n' \"$(openssl rand -hex 24)\" >> {path}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read; a user and a key a line, such as: {make}") from error
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, key = line.partition(" ")
        if not _USER.fullmatch(user) or not _KEY.fullmatch(key.strip()):
            wanted = "a user and a key of 20 or more letters, digits, - or _"
            raise UsageError(f"{path}, line {number}: {wanted}; {make}")
        if key.strip() in keys:
            raise UsageError(f"{path}, line {number}: the key of another line")
        keys[key.strip()] = user
    if not keys:
        raise UsageError(f"{path} holds no key; {make}")
    return keys
