"""From the logarithms that servers show to readings, alike in every dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tgi_stack.backends.servers.protocols.numbers import NOT_SEEN, ReplyError, refuse_excess
from tgi_stack.errors import AnswerError, ScoreError
from tgi_stack.scoring import distributions
from tgi_stack.types import LabelScores, ScoreRequest

LINGER_S = 0.003  # of a group that is not full

Found = Mapping[int, float]


def bounded(request: ScoreRequest, found: Found, route: str, dtype: str | None, attempts: int) -> LabelScores:
    """From the likeliest tokens: a label among them is exact, another has at most what the last of them has.

    Raises:
        ScoreError: `score.unseen` where no label is among them.
    """
    seen = [id for id in request.label_ids if id in found]
    if not seen:
        raise ScoreError(
            "score.unseen",
            f"no label is among the {len(found)} likeliest tokens that the server shows; "
            "let it show more, or use --fallback torch",
        )
    floor = min(found.values())  # of those that were seen: what was masked bounds nothing
    logprobs = tuple(found.get(id, floor) for id in request.label_ids)
    exact = len(seen) == len(logprobs)
    mass = distributions.mass(logprobs) if exact else None
    flags = distributions.mass_flags(mass) if exact else ("labels.bounded",)
    return LabelScores(
        logprobs,
        "vocabulary",
        mass,
        exact,
        route,
        len(request.token_ids),
        (*flags, *distributions.tie_flags([found[id] for id in seen], dtype)),
        attempts,
    )


def refuse_impossible(logprobs: Sequence[float], attempts: int) -> None:
    """Looks at a reading that was put together from several replies, each of them sound.

    Raises:
        AnswerError: their numbers can't be of one distribution.
    """
    try:
        refuse_excess(logprobs)
        if min(logprobs) < NOT_SEEN:
            raise ReplyError("a label of no probability beside the others")
    except ReplyError as error:
        message = f"replies that don't agree: {error}"
        raise AnswerError("server.bad_response", message, (), attempts) from error


def exact(
    request: ScoreRequest, logprobs: tuple[float, ...], route: str, attempts: int, dtype: str
) -> LabelScores:
    """A reading over the vocabulary, whole."""
    read = LabelScores(logprobs, "vocabulary", None, True, route, len(request.token_ids), (), attempts)
    return whole([read], dtype)


def whole(reads: Sequence[LabelScores], dtype: str) -> LabelScores:
    """One reading of all labels, from exact ones of some each.

    Raises:
        AnswerError: see `refuse_impossible`.
    """
    logprobs = tuple(value for read in reads for value in read.logprobs)
    attempts = sum(read.attempts for read in reads)
    refuse_impossible(logprobs, attempts)
    mass = distributions.mass(logprobs)
    flags = (*distributions.mass_flags(mass), *distributions.tie_flags(logprobs, dtype))
    return replace(reads[0], logprobs=logprobs, label_mass=mass, flags=flags, attempts=attempts)


def known_dtype(dtype: str) -> str:
    """What the numbers of a served model are in, where nobody tells: what Qwen's checkpoints are in."""
    return "bf16" if dtype == "unknown" else dtype
