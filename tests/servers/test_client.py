"""The client's decisions without a network: retries, limits, groups."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from tgi_stack.backends.micro_batch import MicroBatcher
from tgi_stack.backends.servers import retry
from tgi_stack.backends.servers.blame import ATTEMPTS, MANY, OWN, UNSURE, Blame, Row, kind_of
from tgi_stack.backends.servers.endpoints import Endpoint, Limit, Pool
from tgi_stack.backends.servers.protocols.reply import Served
from tgi_stack.backends.servers.retry import Budget, Decision
from tgi_stack.errors import AnswerError, ServerError

SERVED = Served("vllm", "m", "m", "1", 100)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("status", "decision"),
    [
        (400, Decision.ROW), (413, Decision.ROW), (422, Decision.ROW), (418, Decision.ROW),
        (401, Decision.ASIDE), (403, Decision.ASIDE), (404, Decision.ASIDE), (301, Decision.ASIDE),
        (407, Decision.ASIDE), (511, Decision.ASIDE),
        (429, Decision.THROTTLED), (503, Decision.THROTTLED),
        (500, Decision.TRANSIENT), (502, Decision.TRANSIENT), (504, Decision.TRANSIENT),
        (424, Decision.TRANSIENT),
    ],
)  # fmt: skip
def test_what_a_status_asks_for(status: int, decision: Decision) -> None:  # S17
    assert retry.of_status(status) is decision


def test_one_ended_idle_connection_is_no_failure() -> None:  # S12
    assert retry.of_transport("silent", silent_before=False) is Decision.FREE
    assert retry.of_transport("silent", silent_before=True) is Decision.TRANSIENT
    assert retry.of_transport("broken", silent_before=False) is Decision.TRANSIENT
    assert retry.of_transport("refused", silent_before=True) is Decision.DOWN
    assert retry.of_transport("unsafe", silent_before=False) is Decision.ASIDE  # S26


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("9999", 30.0),
        ("nan", None),
        (None, None),
        ("0.4", 0.4),
        ("Wed, 21 Oct 2015", None),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 09:28:05 +0200", 5.0),
        ("Thu, 22 Oct 2015 07:28:00 GMT", 30.0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_and_capped(value: str | None, seconds: float | None) -> None:  # S30
    assert retry.retry_after_s(value, "Wed, 21 Oct 2015 07:28:00 GMT") == seconds


def test_a_date_without_the_servers_own_is_none() -> None:  # S30
    assert retry.retry_after_s("Wed, 21 Oct 2015 07:28:10 GMT") is None
    assert retry.retry_after_s("Wed, 21 Oct 2015 07:28:10 GMT", "soon") is None


@pytest.mark.parametrize("named", [None, 0.0, 0.01])
def test_a_pause_has_a_floor_that_doubles(named: float | None) -> None:
    rng = random.Random(3)
    pauses = [retry.throttled_s(named, times, rng) for times in range(1, 12)]
    assert all(pause >= floor for pause, floor in zip(pauses, (0.25, 0.5, 1, 2, 4, 8, 8), strict=False))
    assert max(pauses) <= 12.0
    assert retry.throttled_s(30.0, 1, rng) == 30.0


def test_after_refusals_fewer_are_sent() -> None:
    clock = Clock()
    endpoint = Endpoint("http://h", SERVED, Limit(64, clock, first=32))
    endpoint.throttles, endpoint.outstanding = 3, 4
    assert not endpoint.takes(clock.now)
    endpoint.outstanding = 3
    assert endpoint.takes(clock.now)
    endpoint.throttles, endpoint.outstanding = 9, 0
    assert endpoint.takes(clock.now)


def failed(blame: Blame, row: Row, kind: str = "5xx", times: int = 1) -> int:
    for _ in range(times):
        blame.failed(row, kind)
    return blame.most(row, kind, in_company=False)


def test_a_row_that_fails_alone_is_to_blame() -> None:
    blame, row = Blame(Clock()), Row()
    assert failed(blame, row) == UNSURE  # nobody else was answered meanwhile
    for _ in range(MANY - 1):
        blame.answered(Row())
    assert blame.most(row, "5xx", in_company=False) == UNSURE  # so few may have been lucky
    blame.answered(Row())
    assert blame.most(row, "5xx", in_company=False) == OWN
    assert failed(blame, row, "408") == ATTEMPTS
    assert failed(blame, row, "424") == 3


def test_rows_that_fail_alike_are_asked_again() -> None:
    clock = Clock()
    blame, row, other = Blame(clock), Row(), Row()
    failed(blame, row)
    failed(blame, other)
    for _ in range(MANY):
        blame.answered(Row())
    assert blame.most(row, "5xx", in_company=False) == UNSURE
    blame.answered(other)  # it got over it: a storm
    assert blame.most(row, "5xx", in_company=False) == ATTEMPTS
    clock.now += 60
    assert blame.most(row, "5xx", in_company=False) == OWN


def test_every_5xx_is_one_kind_of_failure() -> None:
    assert {kind_of(status) for status in (500, 502, 504, 520)} == {"5xx"}
    assert kind_of(424) == "424"
    assert kind_of(408) == "408"


def test_a_storm_is_hardly_ever_a_rows_fault() -> None:
    """Of 1,000 runs of 100 rows, three of ten attempts failing, whoever makes them."""
    assert sum(blamed(random.Random(seed), at_once=32) for seed in range(1000)) <= 3  # 50 were
    assert sum(blamed(random.Random(seed), at_once=4) for seed in range(1000)) <= 10  # 166 were


def blamed(rng: random.Random, at_once: int) -> int:
    """Rows that a storm's failures are blamed on, where `at_once` of 100 are asked at any time."""
    blame, found = Blame(Clock()), 0
    waiting, running = [Row() for _ in range(100)], list[Row]()
    while waiting or running:
        running += [waiting.pop() for _ in range(min(at_once - len(running), len(waiting)))]
        row = running.pop(rng.randrange(len(running)))
        if rng.random() >= 0.3:
            blame.answered(row)
        elif failed(blame, row, kind := kind_of(rng.choice((500, 502)))) <= row.met[kind]:
            found += 1
            blame.ended(row)
        else:
            running.append(row)
    return found


def test_pauses_grow_are_jittered_and_bounded() -> None:
    rng = random.Random(3)
    bounds = [max(retry.pause_s(times, rng) for _ in range(300)) for times in range(12)]
    assert bounds[0] <= 0.25 < bounds[3] <= 2.0
    assert 7.0 < bounds[11] <= 8.0


def test_retries_are_at_most_a_fifth_more() -> None:  # S16
    budget = Budget(spare=0.0)
    for _ in range(1000):
        budget.earn()
    assert 199 <= sum(budget.take() for _ in range(1000)) <= 200


def answer(limit: Limit, clock: Clock, most: float, seconds: float) -> None:
    """A server that takes `most` requests at once, each `seconds` long, and more only later."""
    for _ in range(int(limit.allowed)):
        clock.now += seconds / min(limit.allowed, most)
        limit.answered(int(limit.allowed))


def test_a_limit_grows_only_with_throughput() -> None:
    clock = Clock()
    limit = Limit(1024, clock, first=4)
    for _ in range(30):
        answer(limit, clock, 100, 0.5)
    assert 90 <= limit.allowed <= 400
    small = Limit(1024, clock, first=4)
    for _ in range(8):
        answer(small, clock, 4, 0.5)
    assert small.allowed < 10


def test_an_unreached_limit_does_not_grow() -> None:
    clock = Clock()
    limit = Limit(1024, clock, first=32)
    for _ in range(500):
        clock.now += 0.01
        limit.answered(3)
    assert limit.allowed == 32


def test_a_burst_of_refusals_cuts_once() -> None:  # S13
    clock = Clock()
    limit = Limit(1024, clock, first=100)
    clock.now = 1.0
    for _ in range(100):
        limit.throttled(sent_at=0.5)
    assert limit.allowed == pytest.approx(70)
    limit.throttled(sent_at=1.5)
    assert limit.allowed == pytest.approx(49)
    for _ in range(50):
        clock.now += 1
        limit.throttled(sent_at=clock.now)
    assert limit.allowed == 1


async def unreachable(endpoint: Endpoint) -> None:
    raise OSError("refused")


def pool(count: int, clock: Clock) -> Pool:
    endpoints = [Endpoint(f"http://{n}", SERVED, Limit(8, clock)) for n in range(count)]
    rng = random.Random(1)
    return Pool(endpoints, unreachable, 30.0, None, clock, clock.sleep, rng)


async def test_work_goes_where_the_least_of_it_is() -> None:
    made = pool(3, Clock())
    for _ in range(9):
        await made.acquire()
    assert [endpoint.outstanding for endpoint in made.endpoints] == [3, 3, 3]


async def test_without_endpoints_a_run_ends_with_reasons() -> None:  # S17
    made = pool(2, Clock())
    for endpoint in made.endpoints:
        made.set_aside(endpoint, "status 401")
    with pytest.raises(ServerError, match=r"http://0: status 401; http://1: status 401"):
        await made.acquire()


async def test_absent_endpoints_end_the_run_after_patience() -> None:
    clock = Clock()
    made = pool(1, clock)
    made.gone(made.endpoints[0], "refused")
    with pytest.raises(ServerError, match="30 s"):
        await made.acquire()
    assert clock.now >= 30
    await made.aclose()


async def test_groups_are_uniform_and_full_where_possible() -> None:
    asked: list[Sequence[int]] = []

    async def ask(numbers: Sequence[int]) -> Sequence[int]:
        asked.append(numbers)
        await asyncio.sleep(0.001)
        return [10 * number for number in numbers]

    batcher = MicroBatcher[int, int](ask, size=4, lanes=None)
    asking = (batcher.ask(number, number % 2) for number in range(20))
    assert await asyncio.gather(*asking) == [10 * n for n in range(20)]
    assert all(len({number % 2 for number in group}) == 1 for group in asked)
    assert sorted(map(len, asked)) == [2, 2, 4, 4, 4, 4]
    await batcher.aclose()


async def test_a_refused_question_of_a_group_fails_alone() -> None:
    async def ask(numbers: Sequence[int]) -> Sequence[int]:
        if 5 in numbers:
            raise AnswerError("server.refused", "not 5")
        return numbers

    batcher = MicroBatcher[int, int](ask, size=8, lanes=None)
    results = await asyncio.gather(*map(batcher.ask, range(8)), return_exceptions=True)
    assert isinstance(results.pop(5), AnswerError)
    assert results == [0, 1, 2, 3, 4, 6, 7]


async def test_a_fault_of_the_whole_run_reaches_everybody() -> None:
    async def ask(numbers: Sequence[int]) -> Sequence[int]:
        raise ServerError("none is left")

    batcher = MicroBatcher[int, int](ask, size=3, lanes=None)
    results = await asyncio.gather(*map(batcher.ask, range(7)), return_exceptions=True)
    assert all(isinstance(result, ServerError) for result in results)


async def test_room_is_made_and_taken_back() -> None:
    clock = Clock()
    made = pool(1, clock)
    (endpoint,) = made.endpoints
    endpoint.limit.allowed = 100.0
    crowds = iter([(40.0, 0.0), (40.0, 20.0), (40.0, 20.0), (4.0, 0.0)])
    seen: list[float] = []

    async def server_load(asked: Endpoint) -> tuple[float, float] | None:
        seen.append(asked.limit.allowed)
        return next(crowds, None)

    made.server_load = server_load
    endpoint.outstanding = 30
    await made.acquire()
    for _ in range(20):
        await asyncio.sleep(0)
    assert seen == [100, 100, 80, 64, 64]  # our own 31 in flight are no others
    for _ in range(4):
        answer(endpoint.limit, clock, 1000, 0.5)
    assert endpoint.limit.allowed > 0
    await made.aclose()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), (" 3 ", 3.0), ("0.5", 0.5), ("2.", 2.0), ("-5", 0.0), ("9" * 300, 30.0), ("inf", None),
     ("nan", None), ("1e400", None), ("\u0663", None), ("1_0", None), ("0x1", None),
     ("", None), (None, None), ("soon", None)],
)  # fmt: skip
def test_a_pause_is_digits_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry.retry_after_s(header) == seconds
