"""The values that travel through the house: plain, frozen, without behaviour of their own.

A row is read as one of the `*Row` types, asked of a backend as a `ScoreRequest` or a `CaptionRequest`, and
answered as `LabelScores` or a `Caption`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# -- rows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoPicture:
    """Why what stands in an item's `image` can't be shown: an error's type and message."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Item:
    """A product (or document): what is known of it, each part optional but the id.

    `image` is a path or the bytes of a file, `data` an object as JSON: what `summarize --schema` found.
    """

    id: str
    title: str | None = None
    text: str | None = None
    summary: str | None = None
    image: str | bytes | NoPicture | None = None
    data: str | None = None


@dataclass(frozen=True, slots=True)
class SummarizeRow:
    """An image to summarise, by its path or as the bytes of the file.

    `number` is the row's place in the input, from 1.
    """

    number: int
    id: str
    image: str | bytes | None
    title: str | None = None
    text: str | None = None

    @property
    def image_name(self) -> str:
        """What to call the image in messages."""
        return self.image if isinstance(self.image, str) else f"the image of {self.id!r}"


@dataclass(frozen=True, slots=True)
class RerankRow:
    """Candidates to rank for a history or a query; a str in place of an Item is an id to look up."""

    number: int
    id: str
    candidates: tuple[Item | str, ...]
    history: tuple[Item | str, ...] = ()
    query: str | None = None
    positive: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ProbsRow:
    """A prompt of the user's own, with its labels or with the number of default ones (A, B, ...)."""

    number: int
    id: str
    prompt: str
    labels: tuple[str, ...] | int


# -- questions -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image as it is sent: upright sRGB JPEG on the model's own grid.

    Sizes are in pixels: `width` and `height` of the upright original, `sent_*` of the JPEG. `sha256` is of
    the original file's bytes.
    """

    jpeg: bytes
    sha256: str
    width: int
    height: int
    sent_width: int
    sent_height: int
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A prompt and the labels to read from the distribution of the token after it, with their ids.

    `parts` is the body of the user's turn where images stand in it, text and images in their order: what
    the torch engine looks at, and what servers that render prompts themselves are sent, after `system`.
    """

    prompt: str
    token_ids: Sequence[int]
    labels: tuple[str, ...]
    label_ids: tuple[int, ...]
    parts: tuple[str | PreparedImage, ...] = ()
    system: str = ""

    @property
    def images(self) -> tuple[PreparedImage, ...]:
        """The images among the parts."""
        return tuple(part for part in self.parts if isinstance(part, PreparedImage))


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """A prompt (with its image, unless text alone is known) and how to sample the answer.

    `body` is what stands in the prompt's one turn, for servers that render it themselves. `form` is the JSON
    schema that the answer is held to, as one line.
    """

    prompt: str
    body: str
    token_ids: Sequence[int]
    image: PreparedImage | None
    max_new_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    form: str | None = None


# -- answers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelScores:
    """One reading: natural logarithms, one a label, in the order asked.

    `normalised` is `vocabulary` (logarithms of full-vocabulary probabilities) or `labels` (among the labels
    alone; then `label_mass` is None, unknown).
    """

    logprobs: tuple[float, ...]
    normalised: str
    label_mass: float | None
    exact: bool
    route: str
    prompt_tokens: int
    flags: tuple[str, ...] = ()
    attempts: int = 1
    from_cache: bool = False
    chained: bool = False  # of several reads, of labels of several tokens
    stand_in: Identity | None = None  # who gave it, where that is not who was asked


@dataclass(frozen=True, slots=True)
class Caption:
    """A generated text; `finish_reason` is `stop` or `length`.

    `image` is what was seen for it, where that is told; of one from the cache without its pixels.
    """

    text: str
    finish_reason: str
    route: str
    prompt_tokens: int
    completion_tokens: int
    attempts: int = 1
    image: PreparedImage | None = None
    from_cache: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """What an answer depends on besides the request."""

    engine: str
    model: str
    revision: str
    quantization: str
    dtype: str
    tokenizer: str
    version: str
    root: str = ""  # what a server says that it loaded, under whatever name it serves it
