"""Images are decoded in processes of their own: what crashes or hangs there fails its row alone."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tgi_stack.concurrency import NICENESS
from tgi_stack.errors import ImageError, MachineError
from tgi_stack.images.grid import Grid
from tgi_stack.images.pipe import kill
from tgi_stack.images.pool import STARTS, ImagePool, _Process
from tgi_stack.images.prepare import prepare
from tgi_stack.tiny import TINY

GRID = Grid.from_checkpoint(TINY / "vision")


def picture(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), (shade, 90, 160)).save(buffer, "JPEG")
    return buffer.getvalue()


@contextmanager
def children_watched_in_the_loop() -> Iterator[None]:
    """As from Python 3.12 on; before, a thread may take the status of a child that ends first."""
    if sys.version_info >= (3, 12):
        yield
        return
    before = asyncio.get_child_watcher()
    watcher = asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    asyncio.set_child_watcher(watcher)
    try:
        yield
    finally:
        asyncio.set_child_watcher(before)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the kernel has no pidfd")
async def test_killing_an_ended_process_keeps_its_status(caplog: pytest.LogCaptureFixture) -> None:
    with children_watched_in_the_loop():
        process = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
        os.kill(process.pid, signal.SIGTERM)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # the loop has not heard of it yet
        kill(process)
        assert await process.wait() == -signal.SIGTERM
    assert not caplog.records


@pytest.fixture
async def pool() -> AsyncIterator[ImagePool]:
    made = ImagePool(2)
    yield made
    await made.aclose()


async def test_processes_prepare_what_this_one_would(pool: ImagePool) -> None:
    shades = range(0, 200, 10)
    prepared = await asyncio.gather(
        *(pool.prepare(picture(s), str(s), GRID, max_side_px=300) for s in shades)
    )
    assert prepared == [prepare(picture(s), str(s), GRID, max_side_px=300) for s in shades]


async def test_an_error_comes_back_as_it_is(pool: ImagePool) -> None:
    with pytest.raises(ImageError, match=r"page\.jpg begins with b'<html>") as caught:
        await pool.prepare(b"<html>", "page.jpg", GRID)
    assert caught.value.type == "image.unrecognised"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff_of_frames(count: int) -> bytes:
    """A TIFF whose directories form a chain: a reader that counts them walks it all."""
    directory = struct.Struct("<H")
    entries = [
        (256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1),
        (262, 3, 1, 1), (273, 4, 1, 8), (278, 3, 1, 1), (279, 4, 1, 1),
    ]  # fmt: skip
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    size = directory.size + len(body) + 4
    chain = [
        directory.pack(len(entries)) + body + struct.pack("<I", 9 + size * (i + 1) if i + 1 < count else 0)
        for i in range(count)
    ]
    return b"II*\0" + struct.pack("<I", 9) + b"x" + b"".join(chain)


def vast() -> bytes:
    """A small PNG with as many pixels as are taken, with alpha, lying on its side: seconds of computing."""
    width = height = 8000
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 5
    turned = exif.tobytes().removeprefix(b"Exif\0\0")
    squeeze = zlib.compressobj(1)
    line = (b"\4" + bytes(4 * width)) * 100  # Paeth's filter
    data = b"".join([*(squeeze.compress(line) for _ in range(height // 100)), squeeze.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"eXIf", turned) + chunk(b"IDAT", data)


async def test_a_slow_image_fails_and_others_continue() -> None:  # I27
    pool = ImagePool(2, cpu_s=0)
    tasks = (pool.prepare(vast(), "vast.png", GRID), pool.prepare(picture(), "x", GRID))
    hostile, plain = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(hostile, ImageError)
    assert hostile.type == "image.timeout"
    assert "vast.png" in str(hostile)
    assert not isinstance(plain, BaseException)
    assert (await pool.prepare(picture(), "x", GRID)).width == 300
    await pool.aclose()


@pytest.mark.slow
async def test_files_of_many_parts_are_partly_read(pool: ImagePool) -> None:  # I27
    many = chunk(b"tEXt", b"a\0b") * 200_000
    png = io.BytesIO()
    Image.new("RGB", (40, 30)).save(png, "PNG")
    chunky = png.getvalue()[:33] + many + png.getvalue()[33:]
    jpeg = picture()
    tables = jpeg[:2] + (b"\xff\xdb\0\x43\0" + b"\1" * 64) * 120_000 + jpeg[2:]  # each replaces the last
    for content in (tiff_of_frames(100_000), chunky, tables):
        assert (await pool.prepare(content, "x", GRID)).sent_width >= 32


async def test_one_that_crashes_fails_alone(pool: ImagePool, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = _Process.ask

    async def crashing(self: _Process, *parts: bytes) -> tuple[bytes, bytes]:
        if parts[-1] == picture(66):  # as if the decoder wrote over its own memory
            self._process.send_signal(signal.SIGSEGV)
        return await ask(self, *parts)

    monkeypatch.setattr(_Process, "ask", crashing)
    with pytest.raises(ImageError, match="SIGSEGV") as caught:
        await pool.prepare(picture(66), "x", GRID)
    assert caught.value.type == "image.crashed"
    assert (await pool.prepare(picture(), "x", GRID)).width == 300


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_process_that_died_idle_fails_nobody(pool: ImagePool, sent: signal.Signals) -> None:
    await pool.prepare(picture(), "x", GRID)
    pool._idle[0]._process.send_signal(sent)
    assert (await pool.prepare(picture(), "x", GRID)).width == 300


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_workers_leave_signals_to_the_run(pool: ImagePool, sent: signal.Signals) -> None:
    await pool.prepare(picture(), "x", GRID)
    (process,) = pool._idle
    process._process.send_signal(sent)
    await asyncio.sleep(0.05)
    assert process.is_alive


async def test_workers_give_way_to_the_run(pool: ImagePool) -> None:
    await pool.prepare(picture(), "x", GRID)
    (process,) = pool._idle
    assert os.getpriority(os.PRIO_PROCESS, process._process.pid) >= NICENESS


def test_a_low_cpu_limit_fails_no_image() -> None:
    """`ulimit -t` under what an image may take: processes are replaced in time."""
    program = (
        "import asyncio\n"
        "from tests.images.test_image_pool import GRID, ImagePool, picture\n"
        "async def work():\n"
        "    pool = ImagePool(1)\n"
        "    print([(await pool.prepare(picture(), 'x', GRID)).width for _ in range(4)])\n"
        "    await pool.aclose()\n"
        "asyncio.run(work())\n"
    )
    command = f'ulimit -t 9; exec "{sys.executable}" -c "{program}"'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[300, 300, 300, 300]"


async def test_an_abandoned_process_is_ended(pool: ImagePool) -> None:
    task = asyncio.create_task(pool.prepare(picture(), "x", GRID))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for _ in range(200):
        if not any(b"tgi_stack.images.worker" in line for line in children()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("a process decodes images for nobody")


def children() -> list[bytes]:
    numbers = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [path.read_bytes() for number in numbers if (path := Path(f"/proc/{number}/cmdline")).exists()]


async def test_one_that_stands_still_fails_by_the_clock() -> None:
    pool = ImagePool(1)
    await pool.prepare(picture(), "x", GRID)
    pool._wall_s = 0.3  # from now on: what is well may take as long as it takes
    pool._idle[0]._process.send_signal(signal.SIGSTOP)
    with pytest.raises(ImageError) as caught:
        await pool.prepare(picture(), "x", GRID)
    assert caught.value.type == "image.timeout"
    await pool.aclose()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to ask")
async def test_one_stopped_at_work_is_replaced_and_told(said: list[str]) -> None:
    pool = ImagePool(1)
    whole = await pool.prepare(picture(), "x", GRID)
    stopped = pool._idle[0]._process
    stopped.send_signal(signal.SIGSTOP)
    assert await asyncio.wait_for(pool.prepare(picture(), "x", GRID), 60) == whole
    await pool.aclose()
    assert [line for line in said if "stands still" in line and str(stopped.pid) in line]


async def test_a_cancelled_image_leaves_no_answer_behind(pool: ImagePool) -> None:
    tasks = [asyncio.create_task(pool.prepare(picture(9), "x", GRID)) for _ in range(6)]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await pool.prepare(picture(200), "x", GRID) == prepare(picture(200), "x", GRID)


async def test_no_process_outlives_the_pool(pool: ImagePool) -> None:
    await asyncio.gather(*(pool.prepare(picture(s), "x", GRID) for s in range(8)))
    numbers = [process._process.pid for process in pool._all]
    assert 1 <= len(numbers) <= 2
    await pool.aclose()
    assert not any(Path(f"/proc/{number}").exists() for number in numbers)


def test_no_process_outlives_one_that_was_killed() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:

        async def work() -> None:
            pool = ImagePool(1)
            await pool.prepare(picture(), "x", GRID)
            os.write(writer, str(pool._idle[0]._process.pid).encode())
            await asyncio.sleep(60)

        try:
            asyncio.run(work())
        finally:
            os._exit(1)
    child = os.read(reader, 20).decode()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    status = Path(f"/proc/{child}/stat")
    for _ in range(200):
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        os.sched_yield()
        signal.sigtimedwait([], 0.02)
    raise AssertionError(f"process {child} still decodes images for nobody")


async def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'No module named PIL' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(MachineError, match="No module named PIL"):
        await ImagePool(1).prepare(picture(), "x", GRID)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to ask")
async def test_one_stopped_as_it_starts_is_started_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, held = tmp_path / "first", tmp_path / "python"
    held.write_text(
        f'#!/bin/sh\n[ -e {first} ] || {{ touch {first}; kill -STOP $$; }}\nexec {sys.executable} "$@"\n'
    )
    held.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(held))
    pool = ImagePool(1)
    assert (await pool.prepare(picture(), "x", GRID)).sent_width
    await pool.aclose()


@pytest.mark.parametrize("kills", [1, 2, 3])
async def test_one_killed_as_it_starts_is_started_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kills: int
) -> None:
    count = tmp_path / "starts"
    weak = tmp_path / "python"
    weak.write_text(
        f"#!/bin/sh\necho >> {count}\n"
        f'[ "$(wc -l < {count})" -le {kills} ] && kill -9 $$\nexec {sys.executable} "$@"\n'
    )
    weak.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(weak))
    pool = ImagePool(1)
    if kills < STARTS:
        assert (await pool.prepare(picture(), "x", GRID)).sent_width
    else:
        with pytest.raises(MachineError, match="SIGKILL ended it"):
            await pool.prepare(picture(), "x", GRID)
    await pool.aclose()
