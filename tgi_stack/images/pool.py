"""Processes that decode images: one that crashes or computes for ever fails its row, not the run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict

from tgi_stack.concurrency import cores
from tgi_stack.errors import ImageError, MachineError
from tgi_stack.images.grid import Grid
from tgi_stack.images.pipe import READY, Watch, framed, kill, next_part
from tgi_stack.types import PreparedImage

CPU_S = 10  # of one image; the largest that are taken need two
WALL_S = 120.0  # where even the CPU stands still
START_S = 60.0
MOST_PROCESSES = 32
STARTS = 3  # of one that is killed from outside before it is ready
LEAVE_S = 1.0  # for one that has closed its pipes to end by itself
# glibc would give the memory of each image back and fetch it anew for the next: 2,000 page faults, 3 to 4 ms.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
}


class ImagePool:
    """Prepares images in up to `processes` processes (default: one a core), started when they are needed.

    Memory is bounded by their number: each holds one image.
    """

    def __init__(self, processes: int | None = None, *, cpu_s: int = CPU_S, wall_s: float = WALL_S) -> None:
        self._free = asyncio.Semaphore(processes or min(cores(), MOST_PROCESSES))
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._cpu_s = cpu_s
        self._wall_s = wall_s

    async def prepare(
        self,
        content: bytes,
        name: str,
        grid: Grid,
        *,
        max_side_px: int | None = 448,
        allow_truncated: bool = False,
    ) -> PreparedImage:
        """`images.prepare.prepare`, elsewhere.

        Raises:
            ImageError: as there; `image.timeout` for one that takes too long, `image.crashed`.
            MachineError: processes can't be started here.
        """
        asked = {
            "name": name,
            "grid": asdict(grid),
            "max_side_px": max_side_px,
            "allow_truncated": allow_truncated,
            "cpu_s": self._cpu_s,
        }
        request = json.dumps(asked).encode()
        async with self._free:
            try:
                header, jpeg = await self._ask(name, request, content)
            except ImageError as error:
                if error.type != "image.crashed":
                    raise
                # It may have been hurt by the image before, or killed from outside: once more, in a new one.
                header, jpeg = await self._ask(name, request, content, fresh=True)
        answer = json.loads(header)
        if "error" in answer:
            raise ImageError(*answer["error"])
        fields = answer["image"]
        return PreparedImage(jpeg=jpeg, **fields | {"flags": tuple(fields["flags"])})

    async def _ask(
        self, name: str, request: bytes, content: bytes, *, fresh: bool = False
    ) -> tuple[bytes, bytes]:
        idle = None if fresh else self._living()
        process = idle or await self._start()
        answered = False
        try:
            answer = await asyncio.wait_for(process.ask(request, content), self._wall_s)
            answered = True
        except TimeoutError as error:
            message = f"{name} was not decoded within {self._wall_s:.0f} s"
            raise ImageError("image.timeout", message) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise _death(await process.ended(), name, self._cpu_s) from error
        finally:
            if answered:
                self._idle.append(process)
            else:  # also where whoever asked has been cancelled
                process.kill()
        return answer

    def _living(self) -> _Process | None:
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                return process
        return None

    async def _start(self) -> _Process:
        for process in [one for one in self._all if not one.is_alive]:
            self._all.remove(process)
            await process.ended()
        process = await _Process.start()
        self._all.add(process)
        return process

    async def aclose(self) -> None:
        """Ends the processes."""
        for process in self._all:
            process.kill()
        for process in self._all:
            await process.ended()
        self._all.clear()
        self._idle.clear()


class _Process:
    """One process, asked one thing at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._watch = Watch(process, "decodes images")

    @classmethod
    async def start(cls) -> _Process:
        """One that is ready; another where somebody kills it before.

        Raises:
            MachineError: it does not come up.
        """
        # -P: the current folder may hold a json.py of its own.
        command = (sys.executable, "-P", "-m", "tgi_stack.images.worker")
        reason = ""
        for _ in range(STARTS):
            started = cls(await _made(command))
            try:
                await asyncio.wait_for(started._stdout.readexactly(len(READY)), START_S)
                return started
            except (TimeoutError, asyncio.IncompleteReadError) as error:
                stays = isinstance(error, TimeoutError)
                reason, status = await started._last_words(stays=stays)
                if stays or status >= 0:
                    break
            except BaseException:
                started.kill()
                await started.ended()
                raise
        raise MachineError(f"`{' '.join(command)}` does not start: {reason}")

    async def _last_words(self, *, stays: bool) -> tuple[str, int]:
        """What one that is not ready said, and how it ended: by itself, unless it stays."""
        try:
            await asyncio.wait_for(self.ended(), 0.0 if stays else LEAVE_S)
        except TimeoutError:
            self.kill()
        said = await self._process.stderr.read() if self._process.stderr else b""
        status = await self.ended()
        lines = said.decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1], status
        return (f"{signal.Signals(-status).name} ended it" if status < 0 else "it says nothing"), status

    async def ask(self, *parts: bytes) -> tuple[bytes, bytes]:
        """Sends the parts of a request: the two parts of the answer."""
        stdin = self._process.stdin
        if stdin is None:
            raise RuntimeError("started without pipes")
        stdin.write(framed(*parts))
        await stdin.drain()
        return await next_part(self._stdout), await next_part(self._stdout)

    @property
    def _stdout(self) -> asyncio.StreamReader:
        if self._process.stdout is None:
            raise RuntimeError("started without pipes")
        return self._process.stdout

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    def kill(self) -> None:
        kill(self._process)

    async def ended(self) -> int:
        """Its exit status; negative for a signal."""
        status = await self._process.wait()
        self._watch.cancel()
        return status


async def _made(command: tuple[str, ...]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    try:
        # A new session: Ctrl-C is for the run, which lets images in work be finished.
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
            env=KEEP_MEMORY | os.environ,
        )
    except OSError as error:
        raise MachineError(f"can't start a process to decode images: {error.strerror}") from error


def _death(status: int, name: str, cpu_s: int) -> ImageError:
    if -status == getattr(signal, "SIGXCPU", None):
        return ImageError("image.timeout", f"{name} took more than {cpu_s} s of computing to decode")
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return ImageError("image.crashed", f"{name}: the decoder ended with {how}")
