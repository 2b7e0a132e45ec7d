"""What prompts show: pictures decoded, their visual tokens computed once and kept, and where those stand."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from tgi_stack.engine.caption import pixels
from tgi_stack.engine.layers.attention import upload
from tgi_stack.engine.models.positions import rotary_positions
from tgi_stack.engine.models.vision import Tower
from tgi_stack.types import PreparedImage

# Patches through the tower at once: what a block widens them to is of the size of a pack's.
PATCHES = {"cuda": 65_536, "cpu": 4_096}
LAYOUTS = 64  # of prompts that are remembered
Ints = NDArray[np.int64]
Part = tuple[int, int, int]  # a prompt, its first token of these, how many


class Picture:
    """A picture that prompts show: known by its bytes, decoded when it is first looked at."""

    def __init__(self, image: PreparedImage) -> None:
        self.key = hashlib.blake2b(image.jpeg, digest_size=16).digest()
        self._image = image
        self._pixels: torch.Tensor | None = None

    def size(self, patch_px: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self._image.sent_height // patch_px, self._image.sent_width // patch_px

    def decode(self, *, pinned: bool = False) -> torch.Tensor:
        """The pixels on the host, uint8, shape [height, width, 3]; pinned: no copy waits."""
        if self._pixels is None:
            self._pixels = pixels(self._image, pinned=pinned)
        return self._pixels


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, the pictures among them in order, and rotary positions [3, tokens].

    `visual` counts the prompt's visual tokens, shape [tokens]: their number from 0, -1 for text.
    """

    token_ids: Ints
    pictures: tuple[Picture, ...]
    positions: Ints
    visual: Ints

    @property
    def next_position(self) -> int:
        """The rotary position of the first token written."""
        return int(self.positions.max()) + 1


def prompt_of(
    token_ids: Sequence[int], images: Sequence[PreparedImage] = (), image_token: int = -1, patch_px: int = 1
) -> Prompt:
    """A prompt; see `Sight` for what stands for pictures in it."""
    ids = np.array(token_ids, dtype=np.int64)
    pictures = tuple(map(Picture, images))
    sizes = tuple(picture.size(patch_px) for picture in pictures)
    return Prompt(ids, pictures, *_layout((ids == image_token).tobytes(), sizes))


@lru_cache(LAYOUTS)
def _layout(is_visual: bytes, sizes: tuple[tuple[int, int], ...]) -> tuple[Ints, Ints]:
    """`positions` and `visual` of a prompt: the same for all with pictures of one size in one place.

    Args:
        is_visual: a byte a token.
    """
    tokens = np.frombuffer(is_visual, dtype=np.bool_)
    found = rotary_positions(tokens, sizes), np.where(tokens, np.cumsum(tokens) - 1, -1)
    for array in found:
        array.flags.writeable = False
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """The rows of a pack that are visual, and what they hold: the embeddings, then one for each of the first
    layers (see `Tower`), [rows, hidden] each.
    """

    rows: torch.Tensor
    layers: tuple[torch.Tensor, ...]


class Sight:
    """A vision tower, with what it has seen.

    Args:
        image_token: stands for a visual token in prompts.
        patch_px: a side of a patch.
        most_bytes: of visual tokens that are kept for pictures that come again.
    """

    def __init__(self, tower: Tower, image_token: int, patch_px: int, most_bytes: int) -> None:
        self._tower = tower
        self.image_token = image_token
        self._patch_px = patch_px
        self._most_bytes = most_bytes
        self._kept: OrderedDict[bytes, tuple[torch.Tensor, ...]] = OrderedDict()
        self._bytes = 0
        self._looking = threading.Lock()

    def prompt(self, token_ids: Sequence[int], images: Sequence[PreparedImage]) -> Prompt:
        """A prompt with its pictures, none of them decoded yet."""
        return prompt_of(token_ids, images, self.image_token, self._patch_px)

    def knows(self, picture: Picture) -> bool:
        """Whether its visual tokens are kept at this moment."""
        return picture.key in self._kept

    def seen(self, prompts: Sequence[Prompt], parts: Sequence[Part]) -> Seen | None:
        """The visual tokens of rows that are parts of prompts, one behind the other; None where all are text.

        Each picture is computed once, or not at all where it is kept.
        """
        pictures = {one.key: one for owner, _, _ in parts for one in prompts[owner].pictures}
        if not pictures:
            return None
        found = self._look(pictures)
        lengths = [len(found[key][0]) for key in pictures]
        ranges = dict(zip(pictures, np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1]), strict=True))
        rows, chosen, begin = list[Ints](), list[Ints](), 0
        for owner, first, length in parts:
            visual = prompts[owner].visual[first : first + length]
            where = np.flatnonzero(visual >= 0)
            if len(where):
                own = np.concatenate([ranges[one.key] for one in prompts[owner].pictures])
                rows.append(begin + where)
                chosen.append(own[visual[where]])
            begin += length
        index = upload(np.concatenate(chosen), self._tower.device)
        by_layer = zip(*(found[key] for key in pictures), strict=True)
        layers = tuple(torch.cat(layer)[index] for layer in by_layer)
        return Seen(upload(np.concatenate(rows), self._tower.device), layers)

    def codes(self, prompts: Sequence[Prompt]) -> list[NDArray[np.int32]]:
        """Token ids in which each picture has a negative one of its own: prompts begin alike where they show
        the same picture, and nowhere else.
        """
        numbers: dict[bytes, int] = {}
        coded = []
        for prompt in prompts:
            tokens = [self._tokens(picture) for picture in prompt.pictures]
            own = [-1 - numbers.setdefault(picture.key, len(numbers)) for picture in prompt.pictures]
            ids = prompt.token_ids.astype(np.int32)
            ids[prompt.visual >= 0] = np.repeat(own, tokens)
            coded.append(ids)
        return coded

    def forget(self) -> None:
        """Gives the memory of all that is kept back."""
        with self._looking:
            self._kept.clear()
            self._bytes = 0

    def _tokens(self, picture: Picture) -> int:
        rows, columns = picture.size(self._patch_px)
        return rows * columns // self._tower.merged

    def _look(self, pictures: dict[bytes, Picture]) -> dict[bytes, tuple[torch.Tensor, ...]]:
        """Visual tokens by layers of each picture."""
        with self._looking:
            found = {key: self._kept[key] for key in pictures if key in self._kept}
            for key in found:
                self._kept.move_to_end(key)
            for batch in self._batches([one for key, one in pictures.items() if key not in found]):
                layers = self._tower([one.decode() for one in batch])
                split = [torch.split(layer, [self._tokens(one) for one in batch]) for layer in layers]
                for one, tokens in zip(batch, zip(*split, strict=True), strict=True):
                    found[one.key] = tokens
                    self._keep(one.key, tokens)
        return found

    def _batches(self, pictures: Sequence[Picture]) -> Iterator[list[Picture]]:
        most = PATCHES.get(self._tower.device.type, PATCHES["cpu"])
        batch, patches = list[Picture](), 0
        for picture in pictures:
            rows, columns = picture.size(self._patch_px)
            if batch and patches + rows * columns > most:
                yield batch
                batch, patches = [], 0
            batch.append(picture)
            patches += rows * columns
        if batch:
            yield batch

    def _keep(self, key: bytes, tokens: tuple[torch.Tensor, ...]) -> None:
        size = sum(layer.numel() * layer.element_size() for layer in tokens)
        if size > self._most_bytes:
            return
        self._kept[key] = tuple(layer.clone() for layer in tokens)  # alone: a part would hold its whole batch
        self._bytes += size
        while self._bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= sum(layer.numel() * layer.element_size() for layer in oldest)
