"""Data with the shape of what users have: catalogues, histories, photographs, a vocabulary of 150,000.

Everything is drawn from a seed, so that two runs measure the same bytes.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import accumulate
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import tokenizers
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from images import scene
from tgi_stack.tiny import TINY

VOCABULARY = 151_000  # Qwen3's has 151,643 tokens besides the added ones
LEXICON = 120_000
COMMON = 30_000  # words of the lexicon that texts are made of
ITEMS = 10_000
PHOTO_SIDE = 1500
SCENES = 16
SYLLABLES = [c + v + e for c in "bcdfghjklmnprstvwz" for v in "aeiou" for e in ("", "n", "r", "s", "l", "m")]


class Words:
    """Texts whose words are about as frequent as words are: the n-th some n ** -1.1 times as often."""

    def __init__(self, seed: int = 0) -> None:
        draws = random.Random(seed)  # noqa: S311  # no secrets
        lexicon = {
            "".join(draws.choices(SYLLABLES, k=draws.choice((1, 2, 2, 3, 3, 4)))) for _ in range(LEXICON)
        }
        self._lexicon = sorted(lexicon)
        draws.shuffle(self._lexicon)
        self._common = self._lexicon[:COMMON]
        self._weights = list(accumulate((place + 3) ** -1.1 for place in range(COMMON)))
        self._draws = draws

    def text(self, shortest: int, longest: int) -> str:
        """So many words, the first one with a capital, at times a number among them."""
        words = self._draws.choices(
            self._common, cum_weights=self._weights, k=self._draws.randint(shortest, longest)
        )
        if self._draws.random() < 0.3:
            words[-1] = str(self._draws.randint(1, 2000))
        return " ".join(words).capitalize()

    def all(self) -> Iterator[str]:
        """Each word a few times, the frequent ones often: what a tokenizer is trained on.

        And each pair of capitals, which Qwen's vocabulary has too: labels of more than 26 candidates.
        """
        yield from (f"{first}{second}\n" * 2000 for first in ascii_uppercase for second in ascii_uppercase)
        for place, word in enumerate(self._lexicon):
            yield f" {word}" * (2 + 2000 // (place + 1))


def rerank_rows(
    folder: Path, rows: int, *, candidates: int = 20, catalogue: bool = False, seed: int = 0
) -> tuple[Path, Path | None]:
    """A file of sessions with 2 to 14 items of history, and one of items where sessions hold ids alone.

    An item's text has 8 to 20 words.
    """
    words, draws = Words(seed), random.Random(seed)  # noqa: S311  # no secrets
    known = [{"id": f"B{number:06d}", "text": words.text(8, 20)} for number in range(ITEMS)]
    name = f"{'ids' if catalogue else 'texts'}-{candidates}-{rows}"
    source, items = folder / f"{name}.jsonl", folder / "items.jsonl"
    with source.open("w", encoding="utf-8") as file:
        for number in range(rows):
            count = draws.randint(2, 14)
            chosen = draws.sample(known, count + candidates)
            shown: list[Any] = [item["id"] for item in chosen] if catalogue else chosen
            row = {"id": f"u{number}", "history": shown[:count], "candidates": shown[count:]}
            file.write(json.dumps(row) + "\n")
    if not catalogue:
        return source, None
    write_lines(items, known)
    return source, items


def write_lines(path: Path, rows: list[Any]) -> None:
    """JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def photographs(folder: Path, count: int) -> Path:
    """A folder of JPEGs of 1500 x 1500 and 500 to 750 kB, no two alike: each has patches of its own."""
    pictures = folder / f"photographs-{count}"
    if pictures.is_dir():
        return pictures
    pictures.mkdir()
    with ProcessPoolExecutor() as pool:
        for number, content in enumerate(pool.map(_photograph, range(count), chunksize=16)):
            (pictures / f"{number:06d}.jpg").write_bytes(content)
    return pictures


def _photograph(number: int, wanted: int = 750_000) -> bytes:
    image, quality = _scene(number % SCENES, wanted)
    changed = image.copy()
    rng = np.random.default_rng(number)
    for _ in range(4):
        y, x = rng.integers(0, PHOTO_SIDE - 200, 2)
        changed[y : y + 200, x : x + 200] = rng.integers(0, 256, 3)
    return _encoded(changed, quality)


@cache
def _scene(seed: int, wanted: int) -> tuple[Any, int]:
    """Pixels, and the quality at which they take about so many bytes."""
    pixels = np.asarray(scene(PHOTO_SIDE, 1.2, 24.0, seed))
    qualities = (70, 80, 86, 90, 93)
    return pixels, next((q for q in qualities if len(_encoded(pixels, q)) >= wanted), qualities[-1])


def _encoded(pixels: Any, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def large_tokenizer(path: Path) -> Path:
    """A tokenizer.json with Qwen's rules and a vocabulary of its size, trained on the words of the data."""
    if path.is_file():
        return path
    tokenizer = tokenizers.Tokenizer.from_file(str(TINY / "text" / "tokenizer.json"))
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    trainer = BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(Words(0).all(), trainer)
    content = json.loads(tokenizer.to_str())
    first = len(content["model"]["vocab"])
    content["added_tokens"] = [
        {
            "id": first + place,
            "content": token.content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token.special,
        }
        for place, (_, token) in enumerate(added)
    ]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def random_checkpoint(folder: Path, shape: str, tokenizer: Path) -> Path:
    """A checkpoint of a known shape with random weights, as bf16, and the given tokenizer."""
    import torch  # only here: what measures served and scripted runs needs no torch

    from tgi_stack.engine.models.shapes import kind_of, random_model
    from tgi_stack.engine.placement import Placement

    target = folder / shape
    if target.is_dir():
        return target
    kind = kind_of(shape)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # a CPU draws for a minute
    model = random_model(shape, Placement(device, torch.bfloat16))
    ids = {token["content"]: token["id"] for token in json.loads(tokenizer.read_text())["added_tokens"]}
    if kind == "vision":
        model.config.image_token_id = ids["<|image_pad|>"]
        model.config.vision_start_token_id = ids["<|vision_start|>"]
        model.config.vision_end_token_id = ids["<|vision_end|>"]
    # Random weights end nowhere that means anything: let each summary have its whole length.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(target)
    for name in ("chat_template.jinja", "preprocessor_config.json"):
        if (TINY / kind / name).is_file():
            shutil.copy(TINY / kind / name, target / name)
    shutil.copy(tokenizer, target / "tokenizer.json")
    return target
