"""Who answered: what the cache remembers of it, so that a job can be done again without asking anybody."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from cache.keys import Keys, Part
from cache.store import Store
from tgi_stack.prompting import prompts
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.settings import Settings
from tgi_stack.types import Identity

STAND_IN = "stand-in"  # beside the kinds of jobs


def of_identity(identity: Identity) -> dict[str, Part]:
    """Who answers, and what writes the prompts."""
    known = {f"identity_{name}": value for name, value in asdict(identity).items()}
    return known | {"prompt_version": prompts.VERSION}


@dataclass(frozen=True, slots=True)
class Known:
    """Who answered a job before, what prompts have to be written for, and who stood in, if anybody did."""

    identity: Identity
    profile: Profile
    stand_in: Identity | None = None


class Identities:
    """The identities that answered each kind of job: a server that is away can't be asked who it is.

    Each has an entry of its own, so that bundles bring theirs beside those that are there.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def remember(self, settings: Settings, kind: str, identity: Identity, profile: Profile) -> None:
        """Notes who answers a job that was asked for so."""
        entry = {
            "kind": kind,
            "asked": _asked(settings, kind),
            "identity": asdict(identity),
            **profile.described(),
        }
        key = Keys("identity", {}).key(entry=json.dumps(entry, sort_keys=True))
        speed = self.speed(kind, identity)
        self._put(key, entry | {"at": time.time()} | ({} if speed is None else {"speed": speed}))
        digest = profile.tokenizer.digest
        if self._store.get("tokenizer", digest, again=True) is None:
            self._store.put("tokenizer", digest, profile.tokenizer.content)

    def _put(self, key: str, entry: dict[str, Any]) -> None:
        self._store.put("identity", key, json.dumps(entry).encode())

    def note_speed(self, kind: str, identity: Identity, rows: int, seconds: float) -> None:
        """Notes how fast rows that were not remembered were answered, for `--dry-run`."""
        for key, entry in self._listed(kind):
            if entry["identity"] == asdict(identity):
                self._put(key, entry | {"speed": rows / seconds})

    def speed(self, kind: str, identity: Identity) -> float | None:
        """Rows a second that were answered last, where that was noted."""
        same = (entry for _, entry in self._listed(kind) if entry["identity"] == asdict(identity))
        found = [entry["speed"] for entry in same if "speed" in entry]
        return float(found[-1]) if found else None

    def last(self, settings: Settings, kind: str) -> Known | None:
        """Who answered last, of those whom the settings' engine, model and revision allow."""
        wanted = _asked(settings, kind)
        for exactly in (True, False):
            for _, entry in reversed(self._listed(kind)):
                known = self._known(entry) if _fits(entry, wanted, exactly=exactly) else None
                if known is not None:
                    return replace(known, stand_in=self._stand_in_for(known.identity, settings))
        return None

    def know(self, kind: str, identity: Identity) -> bool:
        """Whether somebody answered before."""
        return any(entry["identity"] == asdict(identity) for _, entry in self._listed(kind))

    def _known(self, entry: dict[str, Any]) -> Known | None:
        identity = Identity(**entry["identity"])
        content = self._store.get("tokenizer", identity.tokenizer)
        if content is None:
            return None
        return Known(identity, Profile.of(Tokenizer.of(content), entry))

    # -- who answered in whose place ---------------------------------------------------------------------

    def remember_stand_in(self, settings: Settings, identity: Identity, stand_in: Identity) -> None:
        """Notes who answers what `identity` can't, in a job that was asked for so."""
        entry = {
            "kind": STAND_IN,
            "asked": _asked_to_stand_in(settings),
            "of": asdict(identity),
            "identity": asdict(stand_in),
        }
        key = Keys("identity", {}).key(entry=json.dumps(entry, sort_keys=True))
        self._put(key, entry | {"at": time.time()})

    def stood_in(self, identity: Identity) -> bool:
        """Whether anybody answered in its place."""
        return bool(self._stand_ins(identity))

    def _stand_in_for(self, identity: Identity, settings: Settings) -> Identity | None:
        """Who did last, of those whom the settings allow."""
        wanted = _asked_to_stand_in(settings)
        entries = self._stand_ins(identity)[::-1]
        found = [entry for entry in entries if entry["asked"] == wanted]
        found += [
            entry
            for entry in entries
            if wanted["dtype"] in ("auto", entry["identity"]["dtype"])
            and wanted["quantization"] == entry["identity"]["quantization"]
        ]
        return Identity(**found[0]["identity"]) if found else None

    def _stand_ins(self, identity: Identity) -> list[dict[str, Any]]:
        return [entry for _, entry in self._listed(STAND_IN) if entry["of"] == asdict(identity)]

    def _listed(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """The entries of a kind with their keys, the oldest first."""
        found = []
        for key, payload in self._store.all_of("identity"):
            try:
                entry = json.loads(payload)
                found += [(key, entry)] if entry["kind"] == kind else []
            except (ValueError, KeyError, TypeError):
                continue
        return sorted(found, key=lambda pair: float(pair[1]["at"]))


def _asked(settings: Settings, kind: str) -> dict[str, str | None]:
    return {
        "engine": settings.engine,
        "model": settings.model_for(kind),
        "revision": settings.revision,
        "tokenizer": settings.tokenizer,
        "dtype": settings.dtype,
    }


def _fits(entry: dict[str, Any], wanted: dict[str, str | None], *, exactly: bool) -> bool:
    if exactly:
        return bool(entry["asked"] == wanted)
    identity = entry["identity"]
    return (
        wanted["engine"] in ("auto", identity["engine"])
        and wanted["model"] in (None, identity["model"])
        and wanted["revision"] in (None, identity["revision"])
        and wanted["dtype"] in ("auto", identity["dtype"])
    )


def _asked_to_stand_in(settings: Settings) -> dict[str, str]:
    return {
        "device": settings.device,
        "dtype": settings.dtype,
        "quantization": settings.weights,
        "loader": settings.loader,
    }
