"""What is remembered between runs, and under which keys: answers, images, token ids, and who answered.

A key holds everything that can change the value and nothing else: never a path, a row's number, a URL, how
much was asked at once, or the time.
"""

from __future__ import annotations

import json
import struct
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cache.keys import Keys, Part
from cache.lookup import Lookup
from cache.store import Store
from tgi_stack import images, prompts, scoring
from tgi_stack.backends.base import Profile
from tgi_stack.images.grid import Grid
from tgi_stack.settings import Settings
from tgi_stack.tokens import Tokenizer
from tgi_stack.types import Caption, Identity, LabelScores, PreparedImage

REMEMBERED = 4096  # answers in memory, for equal questions at the same time
REMEMBERED_IMAGE_BYTES = 64 * 2**20
ASKED_AGAIN = 1 / 8  # of the questions are kept with their answers
ABOUT_THE_LABELS = ("label_mass.low", "resolution.bf16", "resolution.fp16")  # flags that a subset has anew


def recipe(grid: Grid, settings: Settings) -> dict[str, Part]:
    """What a prepared image depends on besides the file's bytes."""
    return {
        "image_version": images.VERSION,
        "factor": grid.factor,
        "min_pixels": grid.min_pixels,
        "max_pixels": grid.max_pixels,
        "max_side": settings.max_side,
        "allow_truncated": settings.allow_truncated,
    }


# -- label scores --------------------------------------------------------------------------------------


class LabelAnswers:
    """Readings by their prompts: any subset of labels that were read is answered without asking again."""

    def __init__(self, store: Store | None, identity: Identity, settings: Settings) -> None:
        # Another read tells TGI's mass; other engines know it anyway.
        self._keys = Keys(
            "labels",
            _of_identity(identity) | {"label_mass": settings.label_mass and identity.engine == "tgi"},
        )
        self._fallback = settings.fallback
        self._store = store
        self._lookup: Lookup[LabelTable] = Lookup(
            store, "labels", LabelTable.encoded, LabelTable.decode, memory=REMEMBERED
        )

    async def get(
        self,
        parts: Mapping[str, Part],
        labels: tuple[str, ...],
        compute: Callable[[], Awaitable[LabelScores]],
    ) -> LabelScores:
        """The reading of labels after the prompt that `parts` describe."""
        # A label that stands twice is an error, which is computed.
        usable = len(set(labels)) == len(labels)
        key = self._keys.key(**parts)
        asked = self._keys.key(**parts, labels=json.dumps(labels))

        def enough(found: LabelTable) -> bool:
            return usable and found.holds(labels, self._fallback)

        table = self._lookup.known(key)
        if table is not None:
            if enough(table):
                return table.scores(labels)
            own = self._lookup.known(asked, again=True)
            if own is not None and enough(own):
                return own.scores(labels)

        async def widened() -> LabelTable:
            found = LabelTable.of(labels, await compute())
            if table is None:
                return found
            whole = found.with_more(table)
            if whole is None:  # two readings that are no one table: each has its place
                self._lookup.keep(asked, found)
                return replace(table, fresh=found.fresh)
            return whole

        # Rows that ask for other labels of the same prompt don't wait for each other.
        known = await self._lookup.get_as(key, f"{asked} {self._fallback}", widened, enough)
        return known.scores(labels) if known.fresh is None else known.fresh

    def keep_question(self, parts: Mapping[str, Part], question: Callable[[], bytes]) -> None:
        """Keeps some of the questions too, to be asked again; see `reask`."""
        if self._store is not None:
            key = self._keys.key(**parts)
            if int(key[:2], 16) < 256 * ASKED_AGAIN:
                self._store.put("question", key, question())

    async def aclose(self) -> None:
        """Gives up what is being asked."""
        await self._lookup.aclose()


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Logarithms by label, as they were read; `fresh` is the reading itself, while it is new."""

    logprobs: dict[str, float]
    normalised: str
    exact: bool
    mass: float | None
    route: str
    prompt_tokens: int
    flags: tuple[str, ...]
    chained: bool = False
    fresh: LabelScores | None = None

    @classmethod
    def of(cls, labels: tuple[str, ...], scores: LabelScores) -> LabelTable:
        """The table of one reading."""
        logprobs = dict(zip(labels, scores.logprobs, strict=True))
        known = (scores.normalised, scores.exact, scores.label_mass, scores.route, scores.prompt_tokens)
        return cls(logprobs, *known, scores.flags, scores.chained, scores)

    def holds(self, labels: Sequence[str], fallback: str | None) -> bool:
        """Whether the labels can be told from it, in a way that --fallback allows.

        All of them, or some where they were read exactly.
        """
        if not all(label in self.logprobs for label in labels):
            return False
        if "fallback.torch" in self.flags:
            return fallback in (None, "torch")
        if not self.exact:
            return fallback == "bounds" and len(labels) == len(self.logprobs)
        return True

    def with_more(self, other: LabelTable) -> LabelTable | None:
        """Both tables' labels, or None where they are not of one distribution."""
        # Labels of several tokens may begin one another; those that were read together are known not to.
        ways = [(t.normalised, t.exact, t.chained, t.route, t.prompt_tokens) for t in (self, other)]
        if ways[0] != ways[1] or ways[0][:3] != ("vocabulary", True, False):
            return None
        logprobs = other.logprobs | self.logprobs
        mass = scoring.mass(list(logprobs.values()))
        kept = dict.fromkeys(f for f in (*self.flags, *other.flags) if f != "label_mass.low")
        return replace(self, logprobs=logprobs, mass=mass, flags=(*scoring.mass_flags(mass), *kept))

    def scores(self, labels: tuple[str, ...]) -> LabelScores:
        """The reading of some of its labels."""
        logprobs = tuple(self.logprobs[label] for label in labels)
        flags, mass = self.flags, self.mass
        if len(labels) < len(self.logprobs):
            kept = tuple(flag for flag in flags if flag not in ABOUT_THE_LABELS)
            dtype = next((f.partition(".")[2] for f in flags if f.startswith("resolution.")), None)
            if self.normalised == "vocabulary":
                mass = scoring.mass(logprobs)
            else:
                logprobs = scoring.among(logprobs)
            flags = (*scoring.mass_flags(mass), *scoring.tie_flags(logprobs, dtype), *kept)
        return LabelScores(
            logprobs,
            self.normalised,
            mass,
            self.exact,
            self.route,
            self.prompt_tokens,
            flags,
            attempts=0,
            from_cache=True,
            chained=self.chained,
        )

    def encoded(self) -> bytes:
        """As bytes; `decode` gives it back."""
        known = [self.normalised, self.exact, self.mass, self.route, self.prompt_tokens]
        labels = list(self.logprobs)
        values = array("d", self.logprobs.values()).tobytes()
        head = json.dumps([labels, *known, self.flags, self.chained], separators=(",", ":")).encode()
        return struct.pack("<I", len(head)) + head + values

    @classmethod
    def decode(cls, payload: bytes) -> LabelTable:
        """Raises ValueError, KeyError or struct.error for what is no table."""
        (length,) = struct.unpack_from("<I", payload)
        labels, *known, flags, chained = json.loads(payload[4 : 4 + length])
        normalised, exact, mass, route, tokens = known
        logprobs = dict(zip(labels, array("d", payload[4 + length :]), strict=True))
        return cls(logprobs, normalised, exact, mass, route, tokens, tuple(flags), chained)


# -- summaries -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Summary:
    """A caption, and what was seen for it."""

    caption: Caption
    image: PreparedImage | None

    def encoded(self) -> bytes:
        """As bytes; the image without its pixels."""
        image = None if self.image is None else _measures(self.image)
        return json.dumps([asdict(self.caption), image], ensure_ascii=False).encode("utf-8", "surrogatepass")

    @classmethod
    def decode(cls, payload: bytes) -> Summary:
        """Raises ValueError, KeyError or TypeError for what is no summary."""
        caption, image = json.loads(payload.decode("utf-8", "surrogatepass"))
        seen = None if image is None else _image(b"", image)
        return cls(Caption(**caption | {"attempts": 0}), seen)


class SummaryAnswers:
    """Summaries by what is asked, about which bytes, and how they are sampled."""

    def __init__(
        self, store: Store | None, identity: Identity, settings: Settings, grid: Grid | None
    ) -> None:
        shared = _of_identity(identity) | {
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed if settings.temperature > 0 else None,
        }
        self._keys = Keys("summary", shared | ({} if grid is None else recipe(grid, settings)))
        self._lookup: Lookup[Summary] = Lookup(
            store, "summary", Summary.encoded, Summary.decode, memory=REMEMBERED
        )
        # Another draw each time is no answer to keep.
        self._kept = settings.temperature == 0 or settings.seed is not None

    async def get(
        self, body: str, image: str | None, compute: Callable[[], Awaitable[Summary]]
    ) -> tuple[Summary, bool]:
        """The summary for a turn's body and an image (by its file's SHA-256), and whether it was kept."""
        if not self._kept:
            return await compute(), False
        return await self._lookup.get(self._keys.key(body=body, image=image), compute)

    async def aclose(self) -> None:
        """Gives up what is being asked."""
        await self._lookup.aclose()


# -- images --------------------------------------------------------------------------------------------


class ImageAnswers:
    """Prepared images by the digest of their files and by how they were prepared."""

    def __init__(self, store: Store | None, grid: Grid, settings: Settings) -> None:
        self._keys = Keys("image", recipe(grid, settings))
        self._lookup: Lookup[PreparedImage] = Lookup(
            store,
            "image",
            _encode_image,
            _decode_image,
            memory=REMEMBERED_IMAGE_BYTES,
            size=lambda image: len(image.jpeg),
        )

    async def get(self, sha256: str, prepare: Callable[[], Awaitable[PreparedImage]]) -> PreparedImage:
        """The image that a file with this digest becomes."""
        return (await self._lookup.get(self._keys.key(sha256=sha256), prepare))[0]

    async def aclose(self) -> None:
        """Gives up what is being prepared."""
        await self._lookup.aclose()


def _encode_image(image: PreparedImage) -> bytes:
    head = json.dumps(_measures(image)).encode()
    return struct.pack("<I", len(head)) + head + image.jpeg


def _decode_image(payload: bytes) -> PreparedImage:
    (length,) = struct.unpack_from("<I", payload)
    return _image(payload[4 + length :], json.loads(payload[4 : 4 + length]))


def _measures(image: PreparedImage) -> dict[str, Any]:
    names = ("sha256", "width", "height", "sent_width", "sent_height", "flags")
    return {name: getattr(image, name) for name in names}


def _image(jpeg: bytes, measures: dict[str, Any]) -> PreparedImage:
    return PreparedImage(jpeg, **measures | {"flags": tuple(measures["flags"])})


# -- token ids -----------------------------------------------------------------------------------------


class TokenAnswers:
    """Token ids of prompts, by tokenizer and text."""

    def __init__(self, store: Store | None, tokenizer: Tokenizer) -> None:
        self._store = store
        self._keys = Keys("tokens", {"tokenizer": tokenizer.digest, "prompt_version": prompts.VERSION})

    def get(self, text: str, compute: Callable[[], tuple[int, ...]], *, framed: bool) -> tuple[int, ...]:
        """The ids of a text; `framed` ones were proven to hold the control tokens of their frame alone."""
        if self._store is None:
            return compute()
        key = self._keys.key(text=text, framed=framed)
        payload = self._store.get("tokens", key)
        if payload is not None and len(payload) % 4 == 0:
            return tuple(array("I", payload))
        ids = compute()
        self._store.put("tokens", key, array("I", ids).tobytes())
        return ids


# -- who answered --------------------------------------------------------------------------------------


def _of_identity(identity: Identity) -> dict[str, Part]:
    return {f"identity_{name}": value for name, value in asdict(identity).items()} | {
        "prompt_version": prompts.VERSION
    }


@dataclass(frozen=True, slots=True)
class Known:
    """Who answered a job before, and what prompts have to be written for."""

    identity: Identity
    profile: Profile


class Identities:
    """The identities that answered each kind of job: a server that is away can't be asked who it is.

    Each has an entry of its own, so that bundles bring theirs beside those that are there.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def remember(self, settings: Settings, kind: str, identity: Identity, profile: Profile) -> None:
        """Notes who answers a job that was asked for so."""
        grid = profile.grid
        entry = {
            "kind": kind,
            "asked": _asked(settings, kind),
            "identity": asdict(identity),
            "closes_thinking": profile.closes_thinking,
            "context": profile.context,
            "grid": None if grid is None else asdict(grid),
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

    def know(self, kind: str, identity: Identity) -> bool:
        """Whether they answered before."""
        return any(entry["identity"] == asdict(identity) for _, entry in self._listed(kind))

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
                    return known
        return None

    def _known(self, entry: dict[str, Any]) -> Known | None:
        identity = Identity(**entry["identity"])
        content = self._store.get("tokenizer", identity.tokenizer)
        if content is None:
            return None
        grid = entry["grid"]
        if grid is not None:
            grid = Grid(**grid | {"mean": tuple(grid["mean"]), "std": tuple(grid["std"])})
        tokenizer = Tokenizer.of(content)
        return Known(identity, Profile(tokenizer, entry["closes_thinking"], entry["context"], grid))

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
