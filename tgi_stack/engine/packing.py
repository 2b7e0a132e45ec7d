"""Prompts laid behind each other without padding, in packs of a fixed budget of tokens: pure, on the host.

Prompts that begin alike share a pack: what they share is laid down once, as a segment of its own, and each
of them is a segment that attends to it and to itself. Where the shared part ends is found on the tokens
alone, so it does not matter whether it was an instruction, a query or a history.

The device waits for the first pack, so ids become arrays only when their pack is laid out.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Tokens = Sequence[int] | Ints
# Below this the saving is smaller than what another segment costs.
LEAST_SHARED = 32


@dataclass(frozen=True, slots=True)
class Unit:
    """Prompts that go into one pack together: `shared` tokens in common, then each one's own."""

    members: tuple[int, ...]
    shared: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Pack:
    """One forward pass; int32 arrays, rows are places in the pack.

    `starts`, `lengths`: the own rows of each segment, shape [segments]; `prefix_starts`, `prefix_lengths`:
    the rows it attends to besides; `owners`: a prompt that the rows are of. `members`: the requests answered;
    `last`: the row of each one's last.
    """

    token_ids: Ints
    positions: Ints
    starts: Ints
    lengths: Ints
    prefix_starts: Ints
    prefix_lengths: Ints
    owners: Ints
    members: tuple[int, ...]
    last: Ints

    @property
    def tokens(self) -> int:
        """Rows in all."""
        return len(self.token_ids)

    @property
    def parts(self) -> Iterator[tuple[int, int, int]]:
        """Of each segment a prompt, and which of its tokens the rows are: the first, and how many."""
        firsts = self.positions[self.starts]
        return zip(self.owners.tolist(), firsts.tolist(), self.lengths.tolist(), strict=True)


def pack(
    prompts: Sequence[Tokens], budget: int, *, most: int | None = None, share: bool = True
) -> Iterator[Pack]:
    """Packs of at most `budget` tokens, the largest prompts first; a longer prompt has a pack alone.

    Args:
        prompts: the token ids of each prompt.
        most: prompts in a pack at most.
        share: whether common beginnings are laid down once.

    Raises:
        ValueError: a prompt has no tokens.
    """
    if not all(map(len, prompts)):
        raise ValueError("a prompt without tokens has no next one")

    arrays = _Arrays(prompts)
    groups = _groups(prompts, arrays) if share else (([index], 0) for index in range(len(prompts)))
    units = [unit for group in groups for unit in _split(*group, prompts, budget, most)]
    units.sort(key=lambda unit: unit.tokens)
    sizes = [unit.tokens for unit in units]
    while units:
        room, space, chosen = budget, most or len(prompts), list[Unit]()
        while units:
            place = bisect.bisect_right(sizes, room) - 1
            while place >= 0 and len(units[place].members) > space:
                place -= 1
            if place < 0 and chosen:
                break
            place = place if place >= 0 else len(units) - 1
            chosen.append(units.pop(place))
            room -= sizes.pop(place)
            space -= len(chosen[-1].members)
        yield _lay(chosen, arrays)


class _Arrays(dict[int, Ints]):
    """Prompts as arrays, by their place; each is made when it is first looked at."""

    def __init__(self, prompts: Sequence[Tokens]) -> None:
        self._prompts = prompts

    def __missing__(self, index: int) -> Ints:
        found = self[index] = np.fromiter(self._prompts[index], np.int32, len(self._prompts[index]))
        return found


def _groups(prompts: Sequence[Tokens], arrays: _Arrays) -> Iterator[tuple[list[int], int]]:
    """Prompts that begin alike, with the number of tokens they share; all others alone."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, ids in enumerate(prompts):
        alike.setdefault(tuple(ids[:LEAST_SHARED]), []).append(index)
    for members in alike.values():
        if len(members) == 1:
            yield members, 0
        else:
            yield from _joined({index: arrays[index] for index in members})


def _joined(prompts: dict[int, Ints]) -> Iterator[tuple[list[int], int]]:
    """Neighbours in the order of their tokens, joined as long as that saves more than it loses."""
    order = sorted(prompts, key=lambda index: prompts[index].astype(">u4").tobytes())
    members, shared = [order[0]], 0
    for before, index in pairwise(order):
        common = _common(prompts[before], prompts[index])
        joint = common if len(members) == 1 else min(common, shared)
        if joint >= LEAST_SHARED and len(members) * joint >= (len(members) - 1) * shared:
            members.append(index)
            shared = joint
        else:
            yield members, shared
            members, shared = [index], 0
    yield members, shared


def _common(a: Ints, b: Ints) -> int:
    """How many tokens two prompts have in common at their beginning; each keeps its last for itself."""
    most = min(len(a), len(b)) - 1
    differ = a[:most] != b[:most]
    first = int(differ.argmax()) if most else 0
    return first if most and differ[first] else most


def _split(
    group: list[int], shared: int, prompts: Sequence[Tokens], budget: int, most: int | None
) -> Iterator[Unit]:
    """A group as units that keep the budget, each with the shared part."""
    members: list[int] = []
    tokens = shared
    for index in group:
        own = len(prompts[index]) - shared
        if members and (tokens + own > budget or len(members) == most):
            yield _unit(members, shared, prompts)
            members, tokens = [], shared
        members.append(index)
        tokens += own
    yield _unit(members, shared, prompts)


def _unit(members: list[int], shared: int, prompts: Sequence[Tokens]) -> Unit:
    shared = shared if len(members) > 1 else 0
    return Unit(tuple(members), shared, shared + sum(len(prompts[index]) - shared for index in members))


def _lay(units: Sequence[Unit], arrays: _Arrays) -> Pack:
    ids: list[Ints] = []
    segments: list[tuple[int, int, int, int, bool]] = []  # owner, first position, prefix: start, length; last
    rows = 0
    for unit in units:
        prefix = (rows, unit.shared) if unit.shared else (0, 0)
        if unit.shared:
            ids.append(arrays[unit.members[0]][: unit.shared])
            segments.append((unit.members[0], 0, 0, 0, False))
            rows += unit.shared
        for index in unit.members:
            ids.append(arrays[index][unit.shared :])
            segments.append((index, unit.shared, *prefix, True))
            rows += len(ids[-1])
    owners, firsts, prefix_starts, prefix_lengths, ending = np.array(segments, dtype=np.int32).T
    lengths = np.array([len(part) for part in ids], dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int32)
    starts = ends - lengths
    answered = np.flatnonzero(ending)
    return Pack(
        token_ids=np.concatenate(ids),
        positions=np.arange(rows, dtype=np.int32) + np.repeat(firsts - starts, lengths),
        starts=starts,
        lengths=lengths,
        prefix_starts=prefix_starts,
        prefix_lengths=prefix_lengths,
        owners=owners,
        members=tuple(owners[answered].tolist()),
        last=ends[answered] - 1,
    )
