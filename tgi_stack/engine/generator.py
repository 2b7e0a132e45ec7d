"""Summaries by continuous batching: a row that has ended leaves its slot and the next one enters.

One thread owns the network and works as long as there are requests; whoever asks gets a future. Pictures are
decoded by other threads, ahead of it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from tgi_stack.engine.caption import COLDEST
from tgi_stack.engine.guide import Guide, Guides
from tgi_stack.engine.label_scores import ROUTE, not_finite
from tgi_stack.engine.layers.attention import READ_BEYOND
from tgi_stack.engine.models.decoder import Decoder
from tgi_stack.engine.models.sight import Prompt, Sight, prompt_of
from tgi_stack.engine.placement import current
from tgi_stack.errors import MachineError
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import Caption, CaptionRequest

FILL_TOKENS = 16_384  # of prompts that enter together; about what fills a GPU
ROW_STEP = 64  # slots grow by this many rows
# Steps between two looks at what was written: each look waits for the device, each step past an end is lost.
STEPS_BETWEEN = 4
STEP_S = 30.0  # the longest that a step is waited for
THREADS_OF_PIXELS = 4


class Decoders(Protocol):
    """Makes decoders for a network, as many slots as there is room for."""

    def most(self, rows: int) -> int:
        """How many slots of so many rows there may be."""

    def make(self, slots: int, rows: int) -> Decoder:
        """A decoder of so many slots of so many rows; torch.OutOfMemoryError where they don't fit."""


@dataclass(eq=False)
class Generation:
    """A request on its way: its prompt, what was written so far, and who waits for it."""

    request: CaptionRequest
    prompt: Future[Prompt]
    answer: Future[Caption]
    generator: torch.Generator | None
    guide: Future[Guide] | None = None
    written: list[int] = field(default_factory=list)
    alone: bool = False  # in a pass of its own, where nothing of another prompt can reach it

    def begin(self) -> bool:
        """Whether somebody still waits; from here on nobody can cancel."""
        return self.answer.running() or self.answer.set_running_or_notify_cancel()

    @property
    def rows(self) -> int:
        """What it may take of a slot."""
        return len(self.request.token_ids) + self.request.max_new_tokens

    @property
    def used(self) -> int:
        """Rows in the cache: all tokens but the latest."""
        return len(self.request.token_ids) + len(self.written) - 1


class Generator:
    """Writes summaries.

    Args:
        ends: token ids that end an answer.
        sight: the decoders', for prompts with images.
    """

    def __init__(
        self,
        decoders: Decoders,
        tokenizer: Tokenizer,
        ends: frozenset[int],
        device: torch.device,
        sight: Sight | None = None,
    ) -> None:
        self._decoders = decoders
        self._most: int | None = None  # slots, once memory ran out
        self._fill_tokens = FILL_TOKENS
        self._tokenizer = tokenizer
        self._end_ids = np.array(sorted(ends), dtype=np.int64)
        self._device = device
        self._sight = sight
        self._guides = Guides(tokenizer, ends)
        self._decoder: Decoder | None = None
        self._running: dict[int, Generation] = {}
        self._over: list[tuple[Generation, str]] = []  # with what ended them
        self._waiting: deque[Generation] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._pixels = ThreadPoolExecutor(THREADS_OF_PIXELS, thread_name_prefix="pixels")
        self._thread = threading.Thread(target=self._work, name="generator", daemon=True)
        self._thread.start()

    def submit(self, request: CaptionRequest) -> Future[Caption]:
        """The text that will follow the prompt. A cancelled future's request is not begun."""
        generator = None
        if request.temperature > 0:
            generator = torch.Generator(self._device)
            drawn = int.from_bytes(os.urandom(6), "big")
            generator.manual_seed(drawn if request.seed is None else request.seed)
        job = Generation(request, self._pixels.submit(self._prepare, request), Future(), generator)
        job.guide = self._guide(request)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Ends the thread after the step it is in; what was not answered is cancelled.

        Waits for that: a process that ends while torch works in a daemon's thread is aborted.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pixels.shutdown(wait=False, cancel_futures=True)
        if threading.current_thread() is not self._thread:
            self._thread.join(STEP_S)

    def _guide(self, request: CaptionRequest) -> Future[Guide] | None:
        """At the beginning of an answer; made ahead, since that takes as long as some steps."""
        form = request.form
        return None if form is None else self._pixels.submit(self._guides.guide, form)

    def _prepare(self, request: CaptionRequest) -> Prompt:
        if self._sight is None or request.image is None:
            return prompt_of(request.token_ids)
        prompt = self._sight.prompt(request.token_ids, (request.image,))
        with current(self._device):
            for picture in prompt.pictures:
                if not self._sight.knows(picture):
                    picture.decode(pinned=self._device.type == "cuda")
        return prompt

    @torch.inference_mode()
    def _work(self) -> None:
        while self._wait():
            try:
                with current(self._device):
                    self._turn()
            except torch.OutOfMemoryError as error:
                self._shrink(error)
            except Exception as error:  # noqa: BLE001  # whatever it is, those who asked are told
                self._fail(error)
        self._fail(None)

    def _turn(self) -> None:
        """Lets in who waits, then goes a few steps."""
        if (decoder := self._fitting()) is not None:
            self._admit(decoder)
        if self._decoder is not None and self._running:
            self._advance(self._decoder)
        if not self._running:
            self._deliver()

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._running)
            return not self._closed

    def _fitting(self) -> Decoder | None:
        """The decoder, if its slots are long enough for all who wait; they grow once they are empty."""
        with self._changed:
            while self._waiting and self._waiting[0].answer.cancelled():
                self._waiting.popleft()
            longest = max((job.rows for job in self._waiting), default=0)
        if self._decoder is not None and longest <= self._decoder.cache.rows:
            return self._decoder
        if self._running or not longest:
            return None
        rows = -(-longest // ROW_STEP) * ROW_STEP
        slots = max(1, min(self._decoders.most(rows), self._most or sys.maxsize))
        self._decoder = None  # its memory is needed
        self._decoder = self._decoders.make(slots, rows)
        return self._decoder

    def _admit(self, decoder: Decoder) -> None:
        """Fills free slots, as many prompts at once as the device takes."""
        free = [slot for slot in range(decoder.cache.slots) if slot not in self._running]
        # A few at a time would interrupt the others for little.
        if self._running and len(free) < max(1, decoder.cache.slots // 8):
            return
        begun: list[tuple[tuple[int, ...], torch.Tensor]] = []
        while free and (jobs := self._next(len(free), decoder.cache.rows)):
            slots, free = free[: len(jobs)], free[len(jobs) :]
            begun += self._fill(decoder, slots, jobs)
        self._deliver()
        for places, tokens in begun:  # read last: to read waits for the device
            self._write(places, tokens[:, None])

    def _next(self, most: int, rows: int) -> list[Generation]:
        """Waiting jobs that fit into slots and into one forward pass together, taken from the front.

        One that came since the slots were made may be too long for them; it waits until they grow.
        """
        jobs: list[Generation] = []
        tokens = 0
        with self._changed:
            while self._waiting and len(jobs) < most:
                length = len(self._waiting[0].request.token_ids)
                if self._waiting[0].rows > rows:
                    break
                if jobs and (tokens + length > self._fill_tokens or self._waiting[0].alone or jobs[0].alone):
                    break
                job = self._waiting.popleft()
                if job.begin():
                    jobs.append(job)
                    tokens += length
        return jobs

    def _fill(
        self, decoder: Decoder, slots: Sequence[int], jobs: Sequence[Generation]
    ) -> list[tuple[tuple[int, ...], torch.Tensor]]:
        """Lays prompts into slots: those slots with their first tokens; none where no prompt is well."""
        ready: list[tuple[int, Generation, Prompt]] = []
        for slot, job in zip(slots, jobs, strict=True):
            try:
                if job.guide is not None:
                    job.guide.result()
                ready.append((slot, job, job.prompt.result()))
            except Exception as error:  # noqa: BLE001  # a picture's trouble, or a form's, is its own
                job.answer.set_exception(error)
        if not ready:
            return []
        places, chosen, prompts = zip(*ready, strict=True)
        self._running.update(zip(places, chosen, strict=True))
        tokens = self._choose(decoder.fill(places, prompts), places)
        decoder.take(tokens, places)
        return [(places, tokens)]

    def _advance(self, decoder: Decoder) -> None:
        """A few steps for all slots in use, then what they wrote is read."""
        slots = list(self._running)
        steps = STEPS_BETWEEN if decoder.whole else 1
        lengths = [] if decoder.whole else [self._running[slot].used for slot in slots]
        rows = range(decoder.cache.slots) if decoder.whole else slots
        written = []
        for _ in range(steps):
            written.append(self._choose(decoder.step(slots, lengths), rows))
            decoder.take(written[-1], None if decoder.whole else slots)
        self._deliver()
        found = torch.stack(written, dim=1).cpu()
        self._write(slots, found[slots] if decoder.whole else found)

    def _write(self, slots: Sequence[int], tokens: torch.Tensor) -> None:
        """Adds tokens to the slots' texts, up to one that ends a text or is none; shape [slots, steps].

        All slots are looked at together: the device waits meanwhile.
        """
        found = tokens.cpu().numpy()
        last = np.isin(found, self._end_ids) | (found < 0)
        kept = np.where(last.any(axis=1), last.argmax(axis=1), found.shape[1])
        for slot, row, count in zip(slots, found.tolist(), kept.tolist(), strict=True):
            job = self._running[slot]
            room = job.request.max_new_tokens - len(job.written)
            job.written += row[: min(count, room)]
            if count < min(room, len(row)):
                del self._running[slot]
                if row[count] < 0:
                    self._gave_no_number(job, slot)
                else:
                    self._over.append((job, "stop"))
            elif room <= len(row):
                del self._running[slot]
                self._over.append((job, "length"))

    def _deliver(self) -> None:
        """Gives the texts that are over to who waits for them. Called when the device has work: to read many
        tokens as text takes as long as a step.
        """
        over, self._over = self._over, []
        for job, reason in over:
            try:
                caption = Caption(
                    text=self._tokenizer.decode(job.written).strip(),
                    finish_reason=reason,
                    route=ROUTE,
                    prompt_tokens=len(job.request.token_ids),
                    completion_tokens=len(job.written),
                )
            except Exception as error:  # noqa: BLE001  # one text's trouble is its own
                job.answer.set_exception(error)
            else:
                job.answer.set_result(caption)

    def _gave_no_number(self, job: Generation, slot: int) -> None:
        """Fails a job, or begins it alone where it may have read what is no number in another's prompt."""
        shared = False
        if self._decoder is not None:
            self._decoder.cache.clear(slot)
            shared = self._decoder.attention in READ_BEYOND and not job.written and not job.alone
        if not shared:
            job.answer.set_exception(not_finite())
            return
        job.alone, job.generator, job.guide = True, _again(job, self._device), self._guide(job.request)
        with self._changed:
            self._waiting.appendleft(job)

    def _choose(self, logits: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
        """The likeliest token of each row, or one drawn by the row's own generator, shape [rows].

        A draw divides probabilities by exponential noise: the largest quotient is distributed as they are.
        -1 where the logits are no numbers: of those, too, one would be the largest.
        """
        jobs = [(row, job) for row, slot in enumerate(slots) if (job := self._running.get(slot)) is not None]
        guides = {row: job.guide.result() for row, job in jobs if job.guide is not None}
        self._guides.hold(logits, guides)
        best, tokens = logits.max(dim=-1)
        for row, job in jobs:
            if job.generator is not None:
                below = logits[row].float() - best[row].float()  # no quotient is beyond what a float holds
                weights = torch.softmax(below / max(job.request.temperature, COLDEST), dim=-1)
                noise = torch.empty_like(weights).exponential_(generator=job.generator)
                tokens[row] = (weights / noise).argmax()
        tokens = tokens.where(best.isfinite(), -1)
        self._guides.chose(tokens, guides)
        return tokens

    def _shrink(self, error: torch.OutOfMemoryError) -> None:
        """Half the prompts at once, then half the slots; what was under way starts again."""
        slots = self._most or self._decoders.most(ROW_STEP)
        if self._decoder is not None:
            slots = self._decoder.cache.slots
        if slots == 1 and self._fill_tokens == 1:
            self._fail(
                MachineError(
                    f"{self._device} has too little memory for one summary; "
                    "use a smaller model, --quantization 4bit or a smaller --max-side"
                ),
                error,
            )
            return
        self._fill_tokens = max(1, self._fill_tokens // 2)
        self._most = max(1, slots // 2)
        self._decoder = None
        if self._sight is not None:
            self._sight.forget()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        again = [
            Generation(j.request, j.prompt, j.answer, _again(j, self._device), self._guide(j.request))
            for j in self._running.values()
        ]
        self._running.clear()
        with self._changed:
            self._waiting.extendleft(reversed(again))

    def _fail(self, error: Exception | None, cause: Exception | None = None) -> None:
        """Tells everybody who waits; without an error their requests are cancelled."""
        self._deliver()
        with self._changed:
            jobs = [*self._running.values(), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        if error is not None:
            error.__cause__ = cause
        for job in jobs:
            if (error is not None or not job.answer.cancel()) and not job.answer.done():
                job.answer.set_exception(error or CancelledError())


def _again(job: Generation, device: torch.device) -> torch.Generator | None:
    """A generator at the place where the job's began."""
    if job.generator is None:
        return None
    generator = torch.Generator(device)
    generator.manual_seed(job.generator.initial_seed())
    return generator
