"""What is remembered between runs, and under which keys: answers, images, token ids, and who answered.

A key holds everything that can change the value and nothing else: never a path, a row's number, a URL, how
much was asked at once, or the time.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

from cache.keys import Keys, Part
from cache.lookup import Lookup
from cache.store import Store
from tgi_stack import images
from tgi_stack.answers import questions
from tgi_stack.answers.identities import StandIn
from tgi_stack.answers.questions import Questions
from tgi_stack.errors import is_certain
from tgi_stack.images.grid import Grid
from tgi_stack.prompting import prompts
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, PreparedImage

REMEMBERED = 4096  # answers in memory, for equal questions at the same time
REMEMBERED_IMAGE_BYTES = 64 * 2**20
STOOD_IN = "fallback.torch"  # flag of what another engine computed in a server's place
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


def _of_identity(identity: Identity) -> dict[str, Part]:
    return {f"identity_{name}": value for name, value in asdict(identity).items()} | {
        "prompt_version": prompts.VERSION
    }


# -- label scores --------------------------------------------------------------------------------------


class LabelAnswers:
    """Readings by their prompts: any subset of labels that were read is answered without asking again."""

    def __init__(
        self,
        store: Store | None,
        identity: Identity,
        settings: Settings,
        stand_in: Callable[[], Awaitable[Identity | None]] | None = None,
    ) -> None:
        # Another read tells TGI's mass; other engines know it anyway.
        shared = _of_identity(identity) | {"label_mass": settings.label_mass and identity.engine == "tgi"}
        self._keys = Keys("labels", shared)
        self._stand_in = StandIn(store, identity, settings, shared, stand_in)
        self._fallback = settings.fallback
        self._questions = Questions(store)
        self._lookup: Lookup[LabelTable] = Lookup(
            store, "labels", LabelTable.encoded, LabelTable.decode, memory=REMEMBERED, certain=is_certain
        )

    async def get(
        self,
        parts: Mapping[str, Part],
        labels: tuple[str, ...],
        compute: Callable[[], Awaitable[LabelScores]],
    ) -> LabelScores:
        """The reading of labels after the prompt that `parts` describe."""
        table, told = self._known(self._keys, parts, labels, stood_in=False)
        if told is not None:
            return told.scores(labels)
        places = await self._stand_in.known()
        other = None
        if places is not None:
            other, told = self._known(places, parts, labels, stood_in=True)
            if told is not None:
                return told.scores(labels)

        async def widened() -> LabelTable:
            scores = await compute()
            found, known = LabelTable.of(labels, scores), other if scores.stand_in else table
            return found if known is None else self._joined(found, known, self._keys_for(found), parts)

        def place(found: LabelTable) -> str:
            return self._keys_for(found).key(**parts)

        # Rows that ask for other labels of the same prompt don't wait for each other.
        key, asked = self._keys.key(**parts), self._own(self._keys, parts, labels)
        enough = partial(self._tells, labels=labels, stood_in=False)
        known = await self._lookup.get_as(key, f"{asked} {self._fallback}", widened, enough, place)
        return known.scores(labels) if known.fresh is None else known.fresh

    def _known(
        self, keys: Keys, parts: Mapping[str, Part], labels: tuple[str, ...], *, stood_in: bool
    ) -> tuple[LabelTable | None, LabelTable | None]:
        """What is kept of a prompt, and what tells the labels."""
        table = self._lookup.known(keys.key(**parts), again=stood_in)
        if table is None or self._tells(table, labels, stood_in=stood_in):
            return table, table
        own = self._lookup.known(self._own(keys, parts, labels), again=True)
        return table, own if own is not None and self._tells(own, labels, stood_in=stood_in) else None

    def _tells(self, found: LabelTable, labels: tuple[str, ...], *, stood_in: bool) -> bool:
        # A label that stands twice is an error, which is computed.
        if (STOOD_IN in found.flags) != stood_in or len(set(labels)) != len(labels):
            return False
        return found.holds(labels, self._fallback)

    def _own(self, keys: Keys, parts: Mapping[str, Part], labels: tuple[str, ...]) -> str:
        """The key for readings of a prompt that are no one table."""
        return keys.key(**parts, labels=json.dumps(labels))

    def _keys_for(self, found: LabelTable) -> Keys:
        by = None if found.fresh is None else found.fresh.stand_in
        return self._keys if by is None else self._stand_in.keys(by)

    def _joined(
        self, found: LabelTable, known: LabelTable, keys: Keys, parts: Mapping[str, Part]
    ) -> LabelTable:
        """A new reading and what is known of its prompt, as the table to keep; or each in its place."""
        whole = found.with_more(known)
        if whole is not None:
            return whole
        self._lookup.keep(self._own(keys, parts, found.labels), found)
        return known._replace(fresh=found.fresh)

    def keep_question(self, parts: Mapping[str, Part], question: Callable[[], bytes]) -> None:
        """Keeps the question too, or not."""
        self._questions.keep(self._keys.key(**parts), question)

    async def aclose(self) -> None:
        """Gives up what is being asked."""
        await self._lookup.aclose()


class LabelTable(NamedTuple):
    """Logarithms of labels, as they were read; `fresh` is the reading itself, while it is new."""

    labels: tuple[str, ...]
    logprobs: tuple[float, ...]
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
        known = (scores.normalised, scores.exact, scores.label_mass, scores.route, scores.prompt_tokens)
        return cls(labels, scores.logprobs, *known, scores.flags, scores.chained, scores)

    def holds(self, labels: tuple[str, ...], fallback: str | None) -> bool:
        """Whether the labels can be told from it, in a way that --fallback allows.

        All of them, or some where they were read exactly.
        """
        if labels != self.labels and not set(self.labels).issuperset(labels):
            return False
        if STOOD_IN in self.flags:
            return fallback in (None, "torch")
        if not self.exact:
            return fallback == "bounds" and len(labels) == len(self.labels)
        return True

    def with_more(self, other: LabelTable) -> LabelTable | None:
        """Both tables' labels, or None where they are not of one distribution."""
        # Labels of several tokens may begin one another; those that were read together are known not to.
        ways = [(t.normalised, t.exact, t.chained, t.route, t.prompt_tokens) for t in (self, other)]
        if ways[0] != ways[1] or ways[0][:3] != ("vocabulary", True, False):
            return None
        both = dict(zip(other.labels, other.logprobs, strict=True))
        both |= zip(self.labels, self.logprobs, strict=True)
        mass = distributions.mass(list(both.values()))
        kept = dict.fromkeys(f for f in (*self.flags, *other.flags) if f != "label_mass.low")
        flags = (*distributions.mass_flags(mass), *kept)
        return self._replace(labels=tuple(both), logprobs=tuple(both.values()), mass=mass, flags=flags)

    def scores(self, labels: tuple[str, ...]) -> LabelScores:
        """The reading of some of its labels."""
        logprobs, flags, mass = self.logprobs, self.flags, self.mass
        if labels != self.labels:
            known = dict(zip(self.labels, logprobs, strict=True))
            logprobs = tuple(known[label] for label in labels)
        if len(labels) < len(self.labels):
            kept = tuple(flag for flag in flags if flag not in ABOUT_THE_LABELS)
            dtype = next((f.partition(".")[2] for f in flags if f.startswith("resolution.")), None)
            if self.normalised == "vocabulary":
                mass = distributions.mass(logprobs)
            else:
                logprobs = distributions.among(logprobs)
            flags = (*distributions.mass_flags(mass), *distributions.tie_flags(logprobs, dtype), *kept)
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
        """As bytes; `decode` gives it back.

        The head is the same for most prompts of a run, so that it is read once for all of them; what differs
        stands behind it: the mass, the prompt's length, the logarithms.
        """
        known = [self.labels, self.normalised, self.exact, self.route, self.flags, self.chained]
        head = json.dumps([*known, self.mass is None], separators=(",", ":")).encode()
        values = struct.pack(f"<{len(self.labels)}d", *self.logprobs)
        return _TABLE.pack(len(head), self.prompt_tokens, self.mass or 0.0) + head + values

    @classmethod
    def decode(cls, payload: bytes) -> LabelTable:
        """Raises ValueError, TypeError or struct.error for what is no table."""
        length, tokens, mass = _TABLE.unpack_from(payload)
        values = _TABLE.size + length
        labels, normalised, exact, route, flags, chained, no_mass = _head(payload[_TABLE.size : values])
        logprobs = struct.unpack_from(f"<{len(labels)}d", payload, values)
        if len(payload) != values + 8 * len(labels):
            raise ValueError("not as many logarithms as labels")
        known = None if no_mass else mass
        return cls(labels, logprobs, normalised, exact, known, route, tokens, flags, chained)


_TABLE = struct.Struct("<IQd")


@lru_cache(maxsize=1024)
def _head(head: bytes) -> tuple[tuple[str, ...], str, bool, str, tuple[str, ...], bool, bool]:
    labels, normalised, exact, route, flags, chained, no_mass = json.loads(head)
    return tuple(labels), normalised, exact, route, tuple(flags), chained, no_mass


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
            store, "summary", Summary.encoded, Summary.decode, memory=REMEMBERED, certain=is_certain
        )
        # Another draw each time is no answer to keep.
        self._kept = settings.temperature == 0 or settings.seed is not None
        self._questions = Questions(store if settings.temperature == 0 else None)
        self._images = None if grid is None else Keys("image", recipe(grid, settings))
        self._identity = identity

    async def get(
        self, body: str, image: str | None, compute: Callable[[], Awaitable[Summary]]
    ) -> tuple[Summary, bool]:
        """The summary for a turn's body and an image (by its file's SHA-256), and whether it was kept."""
        if not self._kept:
            return await compute(), False
        return await self._lookup.get(self._keys.key(body=body, image=image), compute)

    def keep_question(self, body: str, image: str | None, request: CaptionRequest) -> None:
        """Keeps the question too, or not."""
        seen = None if image is None or self._images is None else self._images.key(sha256=image)
        key = self._keys.key(body=body, image=image)
        self._questions.keep(key, partial(questions.of_summary, self._identity, request, seen))

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
            decode_image,
            memory=REMEMBERED_IMAGE_BYTES,
            size=lambda image: len(image.jpeg),
            certain=is_certain,
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


def decode_image(payload: bytes) -> PreparedImage:
    """What is kept of an image; raises ValueError, KeyError, TypeError or struct.error for what is none."""
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
