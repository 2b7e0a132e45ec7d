"""Fetches weights into the volume that the servers mount read-only: NAME@REVISION ...

Runs in the service `models`, the one place with a token, which it reads from a file and shows nobody. Weights
that are whole already cost no request.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

# Data alone: no code and no pickles that come with a model.
PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
COMMIT = re.compile("[0-9a-f]{40}")


def fetch(name: str, revision: str, token: str | None) -> Path:
    """A snapshot of a model; of a commit that is here whole nothing is asked."""
    marker = Path(os.environ["HF_HUB_CACHE"]) / "whole" / f"{name.replace('/', '--')}@{revision}"
    if COMMIT.fullmatch(revision) and marker.exists():
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS, token=token or False))
    # TGI's router looks a revision up under refs/, where a download by commit leaves nothing.
    reference = folder.parents[1] / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(folder.name)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return folder


def main(arguments: list[str]) -> int:
    secret = Path(os.environ.get("FASTQWEN_TOKEN_FILE", "/run/secrets/hf_token"))
    token = secret.read_text().strip() if secret.is_file() else ""
    for argument in arguments:
        name, _, revision = argument.partition("@")
        try:
            folder = fetch(name, revision or "main", token or None)
        except GatedRepoError:
            print(
                f"{name} is gated: accept its terms on its page, and put a token into docker/secrets/hf_token"
            )
            return 1
        except RepositoryNotFoundError:
            print(
                f"{name}: no such model, or a private one that the token in docker/secrets/hf_token can't see"
            )
            return 1
        except LocalEntryNotFoundError:
            print(f"{name}: the hub can't be reached from this host")
            return 1
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{name} at {folder.name}: {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
