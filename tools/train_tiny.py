"""Trains the two `tiny` checkpoints from fixed seeds: `python tools/train_tiny.py all`.

Steps, each of which can be run on its own:

    tokenizer   the byte-level BPE both share
    vision      Qwen3-VL: drawn product image -> summary      (minutes on a GPU)
    text        Qwen3: listwise prompt -> letter of the answer (minutes on a GPU)
    export      weights -> the checkpoints under tgi_stack/tiny, as transformers 4.57 writes them

`vision` and `text` write plain weights to --work and may run on another machine, with transformers 4.57 or
5.x; `export` wants 4.57, because what 5.x saves may not load in 4.57.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the name it has everywhere
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import Qwen3ForCausalLM, Qwen3VLForConditionalGeneration

import export_tiny
import tiny_tokenizer
from drawing import camera, draw
from session_data import BRANDS, SENTENCES, Session, draw_session
from tgi_stack.engine.models.patches import to_patches
from tgi_stack.prompting import prompts
from tgi_stack.prompting.labels import LETTERS
from tiny_models import grid_for, session_prompt, text_config, vision_config
from tiny_world import CATEGORIES, COLOURS, Look, random_look, summary, title

SEED = 20
STEPS = {"vision": 3200, "text": 3400}
RATES = {"vision": 1.5e-3, "text": 1e-3}
IGNORE = -100
VISION_BATCH = 256
TEXT_TOKENS = 32_000  # in a batch, padding included
STEPS_TO_GROW = 40  # training steps for each candidate more
NOUNS = tuple(c.noun for c in CATEGORIES)
REPLAYS = 2  # how often a drawn batch is shown again, mirrored or with other brightness


# -- vision --------------------------------------------------------------------------------------------


def known_of(rng: random.Random, look: Look) -> tuple[str | None, str | None]:
    """The title and the text beside a training picture: mostly none, else neutral or telling."""
    name: str | None = None
    if rng.random() < 0.3:
        name = look.category if rng.random() < 0.5 else title(look)
        name = f"{rng.choice(BRANDS)} {name[0].lower()}{name[1:]}" if rng.random() < 0.5 else name
    return name, rng.choice(SENTENCES) if rng.random() < 0.15 else None


class Pictures(IterableDataset[dict[str, torch.Tensor]]):
    """Endless batches of drawn pictures of one grid each, with the token ids of prompt and summary."""

    def __init__(self, tokenizer_file: str, batch: int) -> None:
        self._tokenizer_file = tokenizer_file
        self._batch = batch

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        tokenizer = Tokenizer.from_file(self._tokenizer_file)
        worker = get_worker_info()
        rng = random.Random(f"train-vision:{SEED}:{worker.id if worker else 0}")
        while True:
            yield self._draw_batch(rng, tokenizer)

    def _draw_batch(self, rng: random.Random, tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
        rows, columns = grid_for(rng)
        pixels = np.empty((self._batch, rows * 32, columns * 32, 3), np.uint8)
        tails = []
        for image in pixels:
            look = random_look(rng)
            scale = rng.choice((1.0, 1.0, 1.3, 1.6))
            size = (round(columns * 32 * scale), round(rows * 32 * scale))
            picture = camera(draw(look, rng, size), rng)
            image[:] = np.asarray(picture.resize((columns * 32, rows * 32), 3))
            body = prompts.summary_body(*known_of(rng, look))
            question = prompts.image_turn(body, image_tokens=0, close_thinking=False)
            question = question.split(prompts.VISION_START)[1]
            answer = tokenizer.encode(summary(look) + prompts.TURN_END).ids
            tails.append((tokenizer.encode(question).ids, answer))
        return {"pixels": torch.from_numpy(pixels), **_pad(tails, tokenizer)}


def _pad(rows: list[tuple[list[int], list[int]]], tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    """Token ids padded on the right, and targets that are the answer's tokens alone."""
    length = max(len(question) + len(answer) for question, answer in rows)
    ids = torch.full((len(rows), length), tiny_tokenizer.id_of(tokenizer, "<|endoftext|>"))
    targets = torch.full((len(rows), length), IGNORE)
    for row, (question, answer) in enumerate(rows):
        end = len(question) + len(answer)
        ids[row, :end] = torch.tensor(question + answer)
        targets[row, len(question) : end] = torch.tensor(answer)
    return {"tail": ids, "targets": targets}


def tower(visual: Any, patches: torch.Tensor, rows: int, columns: int) -> tuple[Any, list[Any]]:
    """The model's own vision tower over images of one grid, attention batched over the images.

    transformers runs one attention call an image; with hundreds of small images that is most of the time.
    `_check_tower` proves that the numbers are the same.
    """
    n, count, _ = patches.shape
    x = visual.patch_embed(patches.flatten(0, 1)).view(n, count, -1)
    x = x + _place_embedding(visual.pos_embed.weight, rows * 2, columns * 2)
    cos, sin = _rotation(visual.config, rows * 2, columns * 2, x.device)
    taps = []
    for index, block in enumerate(visual.blocks):
        x = x + _attend(block.attn, block.norm1(x), cos, sin)
        x = x + block.mlp(block.norm2(x))
        if index in visual.config.deepstack_visual_indexes:
            tap = visual.deepstack_merger_list[visual.config.deepstack_visual_indexes.index(index)]
            taps.append(tap(x.flatten(0, 1)))
    return visual.merger(x.flatten(0, 1)), taps


def _place_embedding(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The learned square of place embeddings, resampled to a grid of patches in the tower's order."""
    side = math.isqrt(len(table))
    square = table.view(1, side, side, -1).permute(0, 3, 1, 2).float()
    grid = F.interpolate(square, (rows, columns), mode="bilinear", align_corners=True)[0]
    return _in_blocks(grid.permute(1, 2, 0))


def _rotation(config: Any, rows: int, columns: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the tower's rotary embedding: half of the angles from the row, half the column."""
    half = config.hidden_size // config.num_heads // 2
    frequencies = 10_000.0 ** -(torch.arange(0, half, 2, device=device) / half)
    row = torch.arange(rows, device=device)[:, None, None] * frequencies
    column = torch.arange(columns, device=device)[None, :, None] * frequencies
    shape = (rows, columns, len(frequencies))
    angles = _in_blocks(torch.cat((row.expand(shape), column.expand(shape)), dim=-1))
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _in_blocks(grid: torch.Tensor) -> torch.Tensor:
    """Shape [rows, columns, width] -> [rows * columns, width], the patches of a 2 x 2 block in a row."""
    rows, columns, width = grid.shape
    blocks = grid.view(rows // 2, 2, columns // 2, 2, width).transpose(1, 2)
    return blocks.reshape(rows * columns, width)


def _attend(attn: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    n, count, width = x.shape
    q, k, v = attn.qkv(x).view(n, count, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)

    def turn(t: torch.Tensor) -> torch.Tensor:
        a, b = t.float().chunk(2, dim=-1)
        return (t.float() * cos + torch.cat((-b, a), dim=-1) * sin).to(v.dtype)

    mixed = F.scaled_dot_product_attention(turn(q), turn(k), v)
    projected: torch.Tensor = attn.proj(mixed.transpose(1, 2).reshape(n, count, width))
    return projected


def read_images(model: Any, batch: dict[str, torch.Tensor], head: torch.Tensor) -> torch.Tensor:
    """Hidden states of the tail (what follows the image) of each row, shape [n, tail, width]."""
    pixels = batch["pixels"]
    n, rows, columns = pixels.shape[0], pixels.shape[1] // 32, pixels.shape[2] // 32
    count, start = rows * columns, len(head)
    embedded, taps = tower(model.model.visual, to_patches(pixels), rows, columns)
    embed = model.get_input_embeddings()
    x = torch.cat((embed(head.expand(n, -1)), embedded.view(n, count, -1), embed(batch["tail"])), dim=1)
    seen = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    seen[:, start : start + count] = True
    hidden = model.model.language_model(
        inputs_embeds=x,
        position_ids=_positions(start, rows, columns, batch["tail"].shape[1], n).to(x.device),
        visual_pos_masks=seen,
        deepstack_visual_embeds=taps,
        use_cache=False,
    ).last_hidden_state
    tail: torch.Tensor = hidden[:, start + count - 1 : -1]
    return tail


def _positions(start: int, rows: int, columns: int, tail: int, n: int) -> torch.Tensor:
    """Interleaved mrope's (time, row, column) positions, shape [3, n, length]."""
    before = torch.arange(start).expand(3, -1)
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    image = torch.stack((torch.zeros_like(row), row, column)) + start
    after = torch.arange(tail).expand(3, -1) + start + max(rows, columns)
    return torch.cat((before, image, after), dim=1)[:, None].expand(-1, n, -1)


def _check_tower(model: Any) -> None:
    """The batched tower against the model's own on two random images."""
    device = next(model.parameters()).device
    patches = torch.randn(2, 4 * 6 * 4, 1536, device=device)
    grid = torch.tensor([[1, 8, 12]] * 2, device=device)
    with torch.no_grad():
        own = model.model.visual(patches.flatten(0, 1), grid_thw=grid)
        if not isinstance(own, tuple):  # transformers 5.x
            own = (own.pooler_output, own.deepstack_features)
        ours, taps = tower(model.model.visual, patches, 4, 6)
        torch.testing.assert_close(ours, own[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(taps[1], own[1][1], atol=1e-4, rtol=1e-4)


def train_vision(args: argparse.Namespace) -> None:
    """Trains the vision checkpoint for --steps steps and writes work/vision.safetensors."""
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    torch.manual_seed(SEED)
    model = Qwen3VLForConditionalGeneration(vision_config(tokenizer)).to(args.device)
    print(f"vision: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    _check_tower(model)
    head = torch.tensor(tokenizer.encode(f"{prompts.TURN_START}user\n{prompts.VISION_START}").ids)
    head = head.to(args.device)
    loader = DataLoader(
        Pictures(str(args.tokenizer), args.batch or VISION_BATCH),
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=4 if args.workers else None,
    )
    trainer = Trainer(model, args, "vision")
    memory: list[dict[str, torch.Tensor]] = []
    rng = random.Random(SEED)
    for fresh in loader:
        fresh = {k: v.to(args.device, non_blocking=True) for k, v in fresh.items()}
        _remember(memory, fresh, rng)
        for batch in (fresh, *(rng.choice(memory) for _ in range(REPLAYS))):
            batch = batch | {"pixels": _vary(batch["pixels"], rng)}
            with trainer.autocast():
                hidden = read_images(model, batch, head)
                wanted = batch["targets"]
                known = wanted != IGNORE
                logits = model.lm_head(hidden[known])
            loss = F.cross_entropy(logits.float(), wanted[known])
            right = (logits.argmax(-1) == wanted[known]).float().mean()
            if trainer.step(loss, right):
                trainer.save()
                return


def _remember(memory: list[Any], batch: Any, rng: random.Random, most: int = 400) -> None:
    if len(memory) < most:
        memory.append(batch)
    else:
        memory[rng.randrange(most)] = batch


def _vary(pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Half of the batches mirrored, each a little brighter or darker: a batch seen again is not the same."""
    if rng.random() < 0.5:
        pixels = pixels.flip(2)
    gain = rng.uniform(0.93, 1.07)
    return (pixels.float() * gain).clamp(0, 255)


# -- text ----------------------------------------------------------------------------------------------


class Sessions(IterableDataset[dict[str, torch.Tensor]]):
    """Endless batches of sessions with about the same number of candidates each."""

    def __init__(self, tokenizer_file: str, tokens: int) -> None:
        self._tokenizer_file = tokenizer_file
        self._tokens = tokens

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        tokenizer = Tokenizer.from_file(self._tokenizer_file)
        worker = get_worker_info()
        rng = random.Random(f"train-text:{SEED}:{worker.id if worker else 0}")
        drawn = 0
        while True:
            # Short lists first: the network finds the rule there and carries it over to long ones.
            most = min(52, 4 + drawn // STEPS_TO_GROW)
            count = rng.randint(2, most) if rng.random() < 0.7 else most
            yield self._draw_batch(rng, tokenizer, count)
            drawn += worker.num_workers if worker else 1

    def _draw_batch(self, rng: random.Random, tokenizer: Tokenizer, count: int) -> dict[str, torch.Tensor]:
        rows: list[_Row] = []
        most_history = min(20, 3 + count)
        while (
            max((len(row.ids) for row in rows), default=0) * (len(rows) + 1) < self._tokens
            and len(rows) < 256
        ):
            history = None if rng.random() < 0.15 else rng.randint(3, most_history)
            session = draw_session(rng, max(2, count - rng.randrange(3)), history)
            rows.append(_Row.of(session, tokenizer))
        return _collate(rows, tiny_tokenizer.id_of(tokenizer, "<|endoftext|>"))


@dataclass(frozen=True)
class _Row:
    """A session as the network sees it, and what it is taught to say at the end of each line."""

    ids: list[int]
    letter: int
    ends: list[int]  # token index of the end of each line, history first
    own: list[tuple[int, int]]  # each line's own category and colour
    taste: list[tuple[int, int]]  # the session's category and colour; at the candidates alone
    letters: list[int]  # each candidate's own letter

    @classmethod
    def of(cls, session: Session, tokenizer: Tokenizer) -> _Row:
        prompt, past, offered = session_prompt(session)
        encoding = tokenizer.encode(prompt)
        letters = [tiny_tokenizer.id_of(tokenizer, c) for c in LETTERS[: len(offered)]]
        looks = session.history_looks + session.candidate_looks
        taste = NOUNS.index(session.taste[0]), COLOURS.index(session.taste[1])
        return cls(
            ids=encoding.ids,
            letter=letters[session.answer],
            ends=[int(encoding.char_to_token(end) or 0) for end in past + offered],
            own=[(NOUNS.index(look.category), COLOURS.index(look.colour)) for look in looks],
            taste=[(IGNORE, IGNORE)] * len(past) + [taste] * len(offered),
            letters=[IGNORE] * len(past) + letters,
        )


def _collate(rows: list[_Row], pad: int) -> dict[str, torch.Tensor]:
    length = max(len(row.ids) for row in rows)
    return {
        "ids": torch.tensor([row.ids + [pad] * (length - len(row.ids)) for row in rows]),
        "last": torch.tensor([len(row.ids) - 1 for row in rows]),
        "answer": torch.tensor([row.letter for row in rows]),
        "row": torch.tensor([index for index, row in enumerate(rows) for _ in row.ends]),
        "end": torch.tensor([end for row in rows for end in row.ends]),
        "own": torch.tensor([pair for row in rows for pair in row.own]),
        "taste": torch.tensor([pair for row in rows for pair in row.taste]),
        "letter": torch.tensor([letter for row in rows for letter in row.letters]),
    }


class Judge(nn.Module):
    """What is read off at the end of each line while training, and dropped at export.

    The line's own category and colour, the taste's, whether each fits (and both), and the line's letter:
    from the position of the answer alone a network of this size learns nothing.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.own = nn.ModuleList((nn.Linear(width, len(NOUNS)), nn.Linear(width, len(COLOURS))))
        self.taste = nn.ModuleList((nn.Linear(width, len(NOUNS)), nn.Linear(width, len(COLOURS))))
        self.fits = nn.Linear(width, 3)
        self.letter = nn.Linear(width, vocabulary)

    def forward(self, hidden: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss over all lines; hidden: shape [lines, width]."""
        own, taste, letter = batch["own"], batch["taste"], batch["letter"]
        loss = torch.zeros((), device=hidden.device)
        for side in (0, 1):
            loss = loss + F.cross_entropy(self.own[side](hidden).float(), own[:, side])
            said = self.taste[side](hidden).float()
            loss = loss + F.cross_entropy(said, taste[:, side], ignore_index=IGNORE)
        loss = loss + F.cross_entropy(self.letter(hidden).float(), letter, ignore_index=IGNORE)
        offered = letter != IGNORE
        fits = (own == taste)[offered].float()
        fits = torch.cat((fits, fits.prod(-1, keepdim=True)), dim=-1)
        verdict = F.binary_cross_entropy_with_logits(self.fits(hidden[offered]).float(), fits)
        return 0.5 * loss + 4 * verdict


def train_text(args: argparse.Namespace) -> None:
    """Trains the text checkpoint and writes work/text.safetensors.

    Beside the answer's letter the network is taught to say what `Judge` lists at the end of each line.
    """
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(text_config(tokenizer)).to(args.device)
    judge = Judge(model.config.hidden_size, model.config.vocab_size).to(args.device)
    print(f"text: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    loader = DataLoader(
        Sessions(str(args.tokenizer), args.batch or TEXT_TOKENS),
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=4 if args.workers else None,
    )
    trainer = Trainer(model, args, "text", extra=judge)
    for batch in loader:
        batch = {k: v.to(args.device, non_blocking=True) for k, v in batch.items()}
        with trainer.autocast():
            # Padding stands on the right of a causal model, so that no mask is needed.
            hidden = model.model(input_ids=batch["ids"], use_cache=False).last_hidden_state
            rows = torch.arange(len(hidden), device=hidden.device)
            logits = model.lm_head(hidden[rows, batch["last"]])
            judged = judge(hidden[batch["row"], batch["end"]], batch)
        loss = F.cross_entropy(logits.float(), batch["answer"])
        right = (logits.argmax(-1) == batch["answer"]).float().mean()
        if trainer.step(loss, right, judged):
            trainer.save()
            return


# -- both ----------------------------------------------------------------------------------------------


class Trainer:
    """AdamW with a warm-up and a cosine to zero over the steps; says now and then how it goes."""

    WARM_UP = 200

    def __init__(self, model: nn.Module, args: argparse.Namespace, name: str, extra: nn.Module | None = None):
        self._model, self._args, self._name = model, args, name
        self._steps = args.steps or STEPS[name]
        self._peak = args.rate or RATES[name]
        parameters = [*model.parameters(), *(extra.parameters() if extra else ())]
        # Vectors (norms, biases) are not decayed.
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._parameters = parameters
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        self._step = 0
        self._began = time.monotonic()
        self._seen: list[torch.Tensor] = []

    def autocast(self) -> torch.autocast:
        device = torch.device(self._args.device).type
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def step(self, loss: torch.Tensor, right: torch.Tensor, beside: torch.Tensor | None = None) -> bool:
        """One update for the loss and the one `beside` it; True once the training is over."""
        beside = torch.zeros_like(loss) if beside is None else beside
        (loss + beside).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._step += 1
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        if torch.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._seen.append(torch.stack((loss.detach(), right, beside.detach())))
        if self._step % self._args.every == 0:
            loss_mean, right_mean, beside_mean = torch.stack(self._seen).mean(0).tolist()
            self._seen.clear()
            spent = time.monotonic() - self._began
            line = f"loss {loss_mean:.4f}  right {right_mean:.4f}  beside {beside_mean:.4f}  {spent:5.0f} s"
            print(f"{self._name} {self._step:6d}  {line}", flush=True)
        return self._step >= self._steps

    def _rate(self) -> float:
        warm = min(1.0, self._step / self.WARM_UP)
        return self._peak * warm * 0.5 * (1 + math.cos(math.pi * self._step / self._steps))

    def save(self) -> None:
        self._args.work.mkdir(parents=True, exist_ok=True)
        path = self._args.work / f"{self._name}.safetensors"
        state = {
            k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in self._model.state_dict().items()
        }
        state.pop("lm_head.weight")  # tied to the embedding
        save_file(state, path, metadata={"steps": str(self._step)})
        print(f"{self._name}: {self._step} steps, {path}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("tokenizer", "vision", "text", "export", "all"))
    parser.add_argument(
        "--work", type=Path, default=Path("build/tiny"), help="where weights go between steps"
    )
    parser.add_argument("--out", type=Path, default=export_tiny.TINY, help="where the checkpoints go")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=max(1, (torch.get_num_threads() or 2) - 1))
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--rate", type=float, help=f"learning rate at its peak; default: {RATES}")
    parser.add_argument("--every", type=int, default=200, help="steps between two lines of progress")
    parser.add_argument("--batch", type=int, default=0, help="images, or padded tokens of text, in a batch")
    args = parser.parse_args()
    args.tokenizer = args.out / "text" / "tokenizer.json"
    if args.what in ("tokenizer", "all"):
        for name in ("text", "vision"):
            tiny_tokenizer.save(args.out / name)
    if args.what in ("vision", "all"):
        train_vision(args)
    if args.what in ("text", "all"):
        train_text(args)
    if args.what in ("export", "all"):
        export_tiny.export(args.work, args.out)


if __name__ == "__main__":
    main()
