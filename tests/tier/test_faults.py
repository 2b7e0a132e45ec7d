"""A tier may be down, slow, full, wrong or not ours: records are those of a run that has none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tier import proxy as faults
from tests.tier.conftest import Running
from tests.tier.machines import asked, from_cache, plain, records
from tests.tier.proxy import Fault, Proxy
from tgi_stack.rows.ledger import Record

ROWS = 96


class Answered(NamedTuple):
    """Rows, their records, and what the machine that answered them left in the tier."""

    rows: Path
    expected: list[Record]
    values: dict[bytes, bytes]


@pytest.fixture(scope="module")
def answered(_running: Running, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    folder = tmp_path_factory.mktemp("answered")
    rows = asked(folder / "rows.jsonl", range(ROWS))
    expected = records(rows, folder / "none")
    assert plain(records(rows, folder / "first", cache_tier=_running.url)) == plain(expected)
    return Answered(rows, plain(expected), _running.values())


@pytest.fixture
def rows(answered: Answered) -> Path:
    return answered.rows


@pytest.fixture
def expected(answered: Answered) -> list[Record]:
    return answered.expected


@pytest.fixture
def filled(answered: Answered, server: Running) -> Running:
    """A tier with the answers of another machine."""
    assert len(answered.values) == ROWS
    server.client.mset(answered.values)
    return server


def test_a_second_machine_asks_nothing(
    rows: Path, tmp_path: Path, filled: Running, expected: list[Record]
) -> None:
    found = records(rows, tmp_path / "second", cache_tier=filled.url)
    assert plain(found) == expected
    assert from_cache(found) == ROWS
    again = records(rows, tmp_path / "second", offline=True)  # it was filled back
    assert plain(again) == expected
    assert from_cache(again) == ROWS


PASSING = [faults.slow, faults.reset, faults.loading, faults.flipped, faults.rubbish, faults.shortened]


@pytest.mark.slow
@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("from_the_start", [True, False], ids=["always", "midway"])
def test_what_passes_badly_changes_no_record(
    rows: Path,
    tmp_path: Path,
    filled: Running,
    expected: list[Record],
    proxy: Proxy,
    fault: Fault,
    from_the_start: bool,
) -> None:
    pieces = iter(range(10_000))
    proxy.spoil(lambda piece: piece if not from_the_start and next(pieces) < 4 else fault(piece))
    began = time.monotonic()
    found = records(rows, tmp_path / "second", cache_tier=proxy.url)
    assert plain(found) == expected
    assert time.monotonic() - began < 4.5  # of five seconds a reply, nobody waited for one


def down(server: Running) -> str:
    return "redis://127.0.0.1:1/0"


def another_password(server: Running) -> str:
    return server.url.replace("//", "//somebody:secret@")


def locked(server: Running) -> str:
    server.client.config_set("requirepass", "another")
    return server.url


def wrong_type(server: Running) -> str:
    for key in list(server.values()):
        server.client.delete(key)
        server.client.rpush(key, "x")
    return server.url


def full(server: Running) -> str:
    for key in list(server.values())[::2]:
        server.client.delete(key)
    server.client.config_set("maxmemory", "1")
    return server.url


def no_snapshot(server: Running) -> str:
    for key in list(server.values())[::2]:
        server.client.delete(key)
    server.client.config_set("stop-writes-on-bgsave-error", "yes")
    server.client.config_set("save", "1 1")
    server.client.bgsave()
    while server.client.info()["rdb_bgsave_in_progress"]:
        time.sleep(0.01)
    return server.url


def evicted(server: Running) -> str:
    for key in list(server.values())[:70]:
        server.client.delete(key)
    return server.url


def swapped(server: Running) -> str:
    values = server.values()
    server.client.mset(
        dict(zip(values, [*list(values.values())[1:], *list(values.values())[:1]], strict=True))
    )
    return server.url


def bits(server: Running) -> str:
    server.client.mset({key: faults.flipped(value) for key, value in server.values().items()})
    return server.url


def truncated(server: Running) -> str:
    server.client.mset({key: value[:-1] for key, value in server.values().items()})
    return server.url


def of_a_later_version(server: Running) -> str:
    server.client.mset({key: value[:2] + b"\x09" + value[3:] for key, value in server.values().items()})
    return server.url


WRONG = [swapped, bits, truncated]
STANDING = [
    down,
    another_password,
    locked,
    wrong_type,
    full,
    no_snapshot,
    evicted,
    of_a_later_version,
    *WRONG,
]


@pytest.mark.parametrize("state", STANDING, ids=lambda state: state.__name__)
def test_what_stands_badly_changes_no_record(
    rows: Path,
    tmp_path: Path,
    filled: Running,
    expected: list[Record],
    said: list[str],
    state: Callable[[Running], str],
) -> None:
    url = state(filled)
    found = records(rows, tmp_path / "second", cache_tier=url)
    assert plain(found) == expected
    assert not any("secret" in line for line in said)
    if state in WRONG:  # it is told, and replaced
        assert from_cache(found) == 0
        assert from_cache(records(rows, tmp_path / "third", cache_tier=url)) == ROWS
        assert any("not what was kept" in line for line in said)


@given(places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_changed_value_is_believed(places: list[tuple[int, int]]) -> None:
    from cache.errors import DamagedError
    from cache.tier.values import Seals

    seals = Seals(None)
    one = seals.asked("L" + "ab" * 32)
    blob = seals.seal(one, json.dumps(places).encode())
    spoiled = bytearray(blob)
    for place, byte in places:
        spoiled[place % len(blob)] ^= byte
    if bytes(spoiled) == blob:
        assert seals.opened(one, blob) == json.dumps(places).encode()
        return
    with pytest.raises(DamagedError):
        seals.opened(one, bytes(spoiled))
