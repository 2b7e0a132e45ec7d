"""Questions before anybody computes: what their keys are made of, and what is asked once somebody must.

The tokens of a prompt, the proof of its labels and the pixels of an image cost time that a kept answer does
not need; so a question prepares them when a backend is to be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from cache.store import Store
from tgi_stack.answers.contexts import PromptContext, TokenAnswers
from tgi_stack.answers.images import ImageFile
from tgi_stack.errors import AnswerError, LabelError, ScoreError, TextError
from tgi_stack.prompting import prompts
from tgi_stack.prompting.forms import compact, data_of
from tgi_stack.prompting.labels import branches, chained, refuse_several_tokens
from tgi_stack.prompting.profile import Profile
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, LabelScores, PreparedImage, ScoreRequest

Paths = tuple[tuple[int, ...], ...]


def counted_for_pictures(more: int) -> str:
    """What is said of a server that counts more tokens for pictures than its model reads."""
    return f" and {more} more, as TGI counts pictures (smaller ones: --max-side)" if more else ""


@dataclass(frozen=True, slots=True)
class LabelQuestion:
    """Which logarithms some labels have right after a prompt."""

    context: PromptContext
    labels: tuple[str, ...]

    def prepared(self, *, several_tokens: bool, along: tuple[str, ...] = ()) -> LabelRequests:
        """What a backend is asked: one read, or one a branch of the prefix tree of labels of several tokens.

        Args:
            several_tokens: whether the backend reads labels of several tokens.
            along: labels to read too, where all are of one token each.

        Raises:
            LabelError: labels that can't be read here, see `labels.trace`.
            TextError: `text.empty`, `text.too_long`; see `Tokenizer.encode_prompt`.
        """
        context, labels = self.context, self.labels
        whole = (context.prompt, context.token_ids)
        encoder = context.encoder
        self._refuse_length(1)  # before each label is tried behind a text without end
        paths = encoder.prover.paths(labels, context.ending, whole, merging=encoder.merging)
        self._refuse_length(max(map(len, paths)))
        if set(map(len, paths)) == {1}:
            return LabelRequests(
                (self._request((), _firsts(paths), labels),), paths, self._wide(paths, along)
            )
        if not several_tokens or context.parts:
            refuse_several_tokens(labels, paths)
        requests = [self._request(prefix, tokens) for prefix, tokens in branches(paths).items()]
        return LabelRequests(tuple(requests), paths)

    def _wide(self, paths: Paths, along: tuple[str, ...]) -> ScoreRequest | None:
        """The read of the labels and those along with them, where there is one."""
        context, encoder = self.context, self.context.encoder
        if not along:
            return None
        try:
            more = encoder.prover.paths(along, context.ending, (context.prompt, context.token_ids))
        except LabelError:
            return None
        if set(map(len, more)) != {1} or not set(more).isdisjoint(paths):
            return None
        return self._request((), _firsts((*paths, *more)), (*self.labels, *along))

    def _request(
        self, prefix: tuple[int, ...], ids: tuple[int, ...], labels: tuple[str, ...] = ()
    ) -> ScoreRequest:
        context = self.context
        prompt = "" if prefix else context.prompt
        return ScoreRequest(prompt, context.token_ids + prefix, labels, ids, context.parts, context.system)

    def _refuse_length(self, label_tokens: int) -> None:
        context = self.context
        if not context.token_ids:
            raise TextError("text.empty", "the prompt is empty")
        length, most = len(context.token_ids) + label_tokens - 1, context.encoder.profile.room(1)
        if length + context.counted_more > most:
            pictures = counted_for_pictures(context.counted_more)
            raise TextError("text.too_long", f"{length} tokens{pictures}; a prompt may have {most}")


def _firsts(paths: Paths) -> tuple[int, ...]:
    return tuple([path[0] for path in paths])


@dataclass(frozen=True, slots=True)
class LabelRequests:
    """The reads that a question needs, in the order of their prefixes; `paths` are the labels' tokens.

    `wide` is the one read of all labels with those along, where that can be asked.
    """

    requests: tuple[ScoreRequest, ...]
    paths: Paths
    wide: ScoreRequest | None = None

    def joined(self, reads: Sequence[LabelScores]) -> LabelScores:
        """One reading, from those of the branches, by the chain rule.

        Raises:
            ScoreError: `score.mixed` where some came from the server and some from torch: those don't add up.
        """
        if set(map(len, self.paths)) == {1}:
            return reads[0]
        if len({read.route for read in reads}) > 1:
            raise ScoreError(
                "score.mixed",
                "the server shows some of the labels' tokens and not others; "
                "use labels of one token, or torch",
            )
        found = {
            prefix: dict(zip(tokens, read.logprobs, strict=True))
            for (prefix, tokens), read in zip(branches(self.paths).items(), reads, strict=True)
        }
        logprobs = chained(self.paths, found)
        mass = distributions.mass(logprobs) if all(read.exact for read in reads) else None
        kept = (flag for flag in chain.from_iterable(r.flags for r in reads) if flag != "label_mass.low")
        return replace(
            reads[0],
            logprobs=logprobs,
            label_mass=mass,
            exact=all(read.exact for read in reads),
            flags=(*distributions.mass_flags(mass), *dict.fromkeys(kept)),
            attempts=sum(read.attempts for read in reads),
            chained=True,
        )


@dataclass(frozen=True, slots=True)
class SummaryQuestion:
    """What a turn with an image (unless text alone is known) is answered with.

    `body` is what is said in the turn besides the image, made harmless.
    """

    body: str
    image: ImageFile | PreparedImage | None
    writer: SummaryWriter

    @property
    def sha256(self) -> str | None:
        """The digest of the image's file."""
        return None if self.image is None else self.image.sha256

    async def prepared(self) -> CaptionRequest:
        """What a backend is asked.

        Raises:
            ImageError: see `PreparedImages.prepared`.
            TextError: `text.too_long`; see `Tokenizer.encode_prompt`.
        """
        image = self.image
        if isinstance(image, ImageFile):
            image = await image.images.prepared(image)
        if self.writer.has_tier:
            await self.writer.bring(self.body, image)
        return self.writer.request(self.body, image)

    def checked(self, caption: Caption) -> Caption:
        """An answer, where it is one of the form, as JSON without white space.

        Raises:
            AnswerError: it is none; see `forms.data_of`.
        """
        form = self.writer.form
        if form is None:
            return caption
        try:
            data = data_of(caption.text, form, cut=caption.finish_reason == "length")
        except AnswerError as error:
            raise AnswerError(error.type, str(error), attempts=caption.attempts) from error
        return replace(caption, text=compact(data))


class SummaryWriter:
    """Writes the requests for summaries of one model.

    Args:
        store: where token ids are kept.
        form: what answers are held to; see `prompting.forms`.
    """

    def __init__(
        self, profile: Profile, settings: Settings, store: Store | None, form: str | None = None
    ) -> None:
        self.form = form
        self._profile = profile
        self._settings = settings
        self._tokens = TokenAnswers(store, profile.tokenizer)

    def request(self, body: str, image: PreparedImage | None) -> CaptionRequest:
        """A turn as a request; see `SummaryQuestion.prepared`."""
        profile, settings = self._profile, self._settings
        prompt, frame = self._rendered(body, image)
        ids = self._tokens.encode_prompt(prompt, frame)
        more = profile.counted_more([] if image is None else [image])
        if len(ids) + more > (room := profile.room(settings.new_tokens)):
            raise TextError(
                "text.too_long",
                f"{len(ids)} prompt tokens{counted_for_pictures(more)}; before {settings.new_tokens} new "
                f"ones (--max-new-tokens) there is room for {room}, in a context of {profile.context}",
            )
        return CaptionRequest(
            prompt, body, ids, image, settings.new_tokens, settings.temperature, settings.seed, self.form
        )

    def _rendered(self, body: str, image: PreparedImage | None) -> tuple[str, str]:
        """The prompt of a turn, and its frame."""
        grid = self._profile.grid
        visual = []
        if image is not None and grid is not None:
            visual = [grid.tokens(image.sent_width, image.sent_height)]
        return self._profile.render(prompts.IMAGE_MARK * len(visual) + body, visual)

    @property
    def has_tier(self) -> bool:
        """Whether token ids may be further away, too."""
        return self._tokens.has_tier

    async def bring(self, body: str, image: PreparedImage | None) -> None:
        """See `TokenAnswers.bring`."""
        prompt, _ = self._rendered(body, image)
        await self._tokens.bring(prompt)
