"""Exact quantiles of any number of numbers, of which a block is held and the others are on disk."""

from __future__ import annotations

import math
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

from tgi_stack.rows.looking.per_row import on_disk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 2**20  # numbers, 8 bytes each
CLASS_BITS = 48  # what of a double's bits a class of numbers has in common is left of these


class Quantiles:
    """Numbers from 0 up, and their quantiles.

    Attributes:
        count: how many there are.
        largest: the largest of them; 0 where there is none.
    """

    def __init__(self, *, block: int = BLOCK) -> None:
        self.count = 0
        self.largest = 0.0
        self._block = block
        self._held = array("d")
        self._file: IO[bytes] | None = None

    def add(self, values: Iterable[float]) -> None:
        """Takes some in.

        Raises:
            DiskError: temporary files can't be written.
        """
        before = len(self._held)
        self._held.extend(values)
        self.count += len(self._held) - before
        self.largest = max(self.largest, max(self._held[before:], default=0.0))
        if len(self._held) >= self._block:
            with on_disk():
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="fastqwen-numbers-")  # noqa: SIM115
                self._file.write(self._held.tobytes())
            self._held = array("d")

    def close(self) -> None:
        """Gives the file back."""
        if self._file is not None:
            self._file.close()

    def quantile(self, share: float) -> float | None:
        """The value that `share` of the numbers are at most, between two neighbours in proportion.

        None where there is none. The definition is that of NumPy's default (type 7 of Hyndman and Fan 1996).
        """
        if self.count == 0:
            return None
        place = share * (self.count - 1)
        low, high = (self._at(rank) for rank in (math.floor(place), math.ceil(place)))
        return low + (high - low) * (place - math.floor(place))

    def within(self, bounds: Sequence[float]) -> list[float]:
        """The share of the numbers that are at most each of some bounds, which ascend; all in one pass.

        Zeros where there is no number.
        """
        import numpy as np

        counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        for block in self._blocks():
            counts += np.bincount(np.searchsorted(bounds, block), minlength=len(counts))
        return [float(below) / max(1, self.count) for below in np.cumsum(counts)[:-1]]

    def _at(self, rank: int) -> float:
        """The number at a rank, from 0: its class is found first, and then the number among its class.

        Doubles from 0 up are in the order of their bits, so that the leading bits are classes in order.
        """
        import numpy as np

        counts = np.zeros(1 << (64 - CLASS_BITS), dtype=np.int64)
        for block in self._blocks():
            counts += np.bincount(_classes(block), minlength=len(counts))
        ends = np.cumsum(counts)
        wanted = int(np.searchsorted(ends, rank, side="right"))
        among: dict[float, int] = {}  # equal numbers, such as many zeros, are held once
        for block in self._blocks():
            of_class = np.unique(block[_classes(block) == wanted], return_counts=True)
            for value, many in zip(*of_class, strict=True):
                among[float(value)] = among.get(float(value), 0) + int(many)
        rest = rank - (int(ends[wanted]) - int(counts[wanted]))
        for value in sorted(among):
            rest -= among[value]
            if rest < 0:
                return value
        raise AssertionError("a rank is below the count")

    def _blocks(self) -> Iterator[NDArray[np.float64]]:
        import numpy as np

        if self._file is not None:
            with on_disk():
                self._file.seek(0)
                while content := self._file.read(8 * BLOCK):
                    yield np.frombuffer(content, dtype=np.float64)
        if self._held:
            yield np.array(self._held, dtype=np.float64)


def _classes(block: NDArray[np.float64]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = block.view("int64") >> CLASS_BITS
    return found
