"""Rotary positions of a prompt with images, as Qwen3-VL counts them: pure, on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MERGE = 2


def rotary_positions(
    is_visual: NDArray[np.bool_], sizes: Sequence[tuple[int, int]], merge: int = MERGE
) -> NDArray[np.int64]:
    """Time, row and column of each token, shape [3, tokens].

    Text counts on in all three. The tokens of an image share one time, and their rows and columns begin
    there; what follows the image begins behind the longer of its sides.

    Args:
        is_visual: which tokens stand for images.
        sizes: rows and columns of patches of each image, in order.
    """
    positions = np.empty((3, len(is_visual)), dtype=np.int64)
    places = np.flatnonzero(is_visual)
    done, count, seen = 0, 0, 0
    for patch_rows, patch_columns in sizes:
        rows, columns = patch_rows // merge, patch_columns // merge
        first = int(places[seen])
        positions[:, done:first] = np.arange(first - done) + count
        count += first - done
        done = first + rows * columns
        grid = np.indices((rows, columns)).reshape(2, -1)
        positions[0, first:done] = count
        positions[1:, first:done] = grid + count
        count += max(rows, columns)
        seen += rows * columns
    positions[:, done:] = np.arange(len(is_visual) - done) + count
    return positions
