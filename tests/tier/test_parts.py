"""The parts of a tier by themselves: when it is left alone, what waits behind, which values are believed."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from cache.errors import DamagedError, TierError
from cache.keys import MARK, Keys, mark_of
from cache.tier import behind
from cache.tier.address import parse
from cache.tier.behind import Behind, Entry
from cache.tier.breaker import PAUSE_S, Breaker
from cache.tier.values import Seals


class Clock:
    """Time that tests tell."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_three_failures_open_a_breaker() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    assert [breaker.failed() for _ in range(3)] == [False, False, True]
    assert breaker.is_open
    assert not breaker.wants_probe()
    clock.now += PAUSE_S
    assert [breaker.wants_probe() for _ in range(2)] == [True, False]  # one looks
    assert not breaker.failed()
    clock.now += PAUSE_S
    assert not breaker.wants_probe()  # twice the pause
    clock.now += PAUSE_S
    assert breaker.wants_probe()
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.failed()  # and one failure opens it


def test_a_breaker_forgives_slowly() -> None:
    breaker = Breaker(Clock())
    for _ in range(2):
        breaker.failed()
        breaker.succeeded()
    assert breaker.failed() is False
    breaker.succeeded()
    assert breaker.failed()
    healthy = Breaker(Clock())
    for _ in range(100):
        assert not healthy.failed()
        for _ in range(20):
            healthy.succeeded()


def test_what_is_too_much_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "MOST_WAITING", 10)
    begin, written = threading.Event(), list[Entry]()

    def write(entries: Sequence[Entry]) -> None:
        begin.wait()
        written.extend(entries)

    queue = Behind(write, lambda: None, Breaker(), Breaker(), lambda error: None)
    for number in range(50):
        queue.put(Entry(f"L{number}", b"x"))
    begin.set()
    queue.close()
    values = sum(entry.payload is not None for entry in written)
    assert values + queue.dropped == 50
    assert queue.dropped >= 30
    assert len(written) == 50  # what releases a lease is never dropped


def test_what_fails_is_dropped_and_counted() -> None:
    def write(entries: Sequence[Entry]) -> None:
        raise TierError("is full")

    told: list[TierError] = []
    queue = Behind(write, lambda: None, Breaker(), Breaker(), told.append)
    for number in range(behind.MOST_IN_ONE * 5):
        queue.put(Entry(f"L{number}", b"x"))
    queue.close()
    assert queue.dropped == behind.MOST_IN_ONE * 5
    assert len(told) == 1


@pytest.mark.parametrize("team", [None, b"0123456789abcdef"])
def test_a_value_is_of_its_question(team: bytes | None) -> None:
    seals, local = Seals(team), "1" * 64
    one, another = seals.asked("L" + local), seals.asked("L" + "2" * 64)
    blob = seals.seal(one, b"payload")
    assert seals.opened(one, blob) == b"payload"
    assert b"payload" not in blob
    assert seals.seal(one, b"payload") != blob  # no two masks are the same
    seals.check(one.key, blob)
    with pytest.raises(DamagedError):
        seals.opened(another, blob)
    with pytest.raises(DamagedError):
        Seals(b"another key, as long").opened(one, blob)
    assert local[:-MARK].encode() not in one.key + blob
    assert one.secret not in blob


def test_keys_of_a_revision_end_alike() -> None:
    ours, theirs = (Keys("labels", {"revision": name}, name) for name in ("a", "b"))
    assert {ours.key(prompt=prompt)[-MARK:] for prompt in "xyz"} == {mark_of("a")}
    assert theirs.key(prompt="x").endswith(mark_of("b"))
    assert len({one.key(prompt=prompt)[:-MARK] for one in (ours, theirs) for prompt in "xyz"}) == 6


def test_an_address_shows_no_secret() -> None:
    address = parse("rediss://us%40er:pass%2Fword@[::1]:7000/3")
    assert (address.user, address.password, address.tls) == ("us@er", "pass/word", True)
    assert str(address) == "rediss://[::1]:7000/3"
    assert "pass" not in repr(address)
