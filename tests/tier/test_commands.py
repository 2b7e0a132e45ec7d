"""What commands say of a tier, and what they never say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cache.store import Store
from cache.tier.values import Seals
from tests.conftest import Fastqwen, read_records
from tests.tier.conftest import Running
from tests.tier.machines import asked, from_cache, records
from tgi_stack.answers.tables import LabelTable

PASSWORD = "hunter2-of-the-tier"  # noqa: S105  # of the tests


def answered(server: Running, tmp_path: Path) -> Path:
    rows = asked(tmp_path / "rows.jsonl", range(20))
    records(rows, tmp_path / "cache", cache_tier=server.url)
    return rows


def test_values_that_do_not_hold_are_counted(server: Running, cached: Fastqwen, tmp_path: Path) -> None:
    answered(server, tmp_path)
    assert "in the tier: 20 hold, 0 damaged" in cached("cache", "verify", "--cache-tier", server.url).stderr
    key = next(iter(server.values()))
    server.client.append(key, b"x")
    found = cached("cache", "verify", "--cache-tier", server.url, "--json", check=1)
    assert json.loads(found.stdout)["tier"] == {"whole": 19, "damaged": 1}
    told = json.loads(cached("cache", "info", "--cache-tier", server.url, "--json").stdout)
    assert told["tier"]["entries"] == 20


def test_a_purge_takes_one_revision(server: Running, cached: Fastqwen, tmp_path: Path) -> None:
    rows = answered(server, tmp_path)
    revision = records(rows, tmp_path / "cache")[0]["revision"]
    others = cached("cache", "purge", "--revision", "another", "--cache-tier", server.url)
    assert "0 entries removed, 0 in the tier" in others.stderr
    gone = cached("cache", "purge", "--revision", revision, "--cache-tier", server.url, "--json")
    found = json.loads(gone.stdout)
    assert (found["here"] >= 20, found["tier"], found["left"]) == (True, 20, 0)
    assert from_cache(records(rows, tmp_path / "cache", cache_tier=server.url)) == 0
    assert "give --revision" in cached("cache", "purge", check=2).stderr


@pytest.mark.slow
def test_a_tier_stays_whatever_is_done_here(server: Running, cached: Fastqwen, tmp_path: Path) -> None:
    """`gc`, `clear`, `export` and `import` are of this machine; `purge` alone reaches the team's."""
    rows, given = answered(server, tmp_path), ("--cache-tier", server.url)
    before = server.values()
    cached("cache", "export", tmp_path / "a.fqc", *given)
    stays = f"the tier {server.url} stays as it is: "
    assert f"{stays}it lets the least used go" in cached("cache", "gc", "--to-size", "1", *given).stderr
    assert f"{stays}what is imported is for" in cached("cache", "import", tmp_path / "a.fqc", *given).stderr
    assert server.values() == before
    assert f"{stays}what it has comes back; fastqwen cache purge" in cached("cache", "clear", *given).stderr
    assert server.values() == before
    assert from_cache(records(rows, tmp_path / "cache", cache_tier=server.url)) == 20  # it came back
    server.client.flushall()
    cached("cache", "clear")
    cached("cache", "import", tmp_path / "a.fqc", *given)
    assert server.values() == {}
    assert from_cache(records(rows, tmp_path / "cache", cache_tier=server.url)) == 20  # by the bundle
    assert "stays as it is" not in cached("cache", "clear").stderr


def test_asking_again_finds_what_the_tier_made_up(server: Running, cached: Fastqwen, tmp_path: Path) -> None:
    """A machine that only ever got answers from the tier has questions to ask, too."""
    torch = {"engine": "torch", "model": "tiny", "device": "cpu"}
    rows = asked(tmp_path / "rows.jsonl", range(6))
    records(rows, tmp_path / "first", cache_tier=server.url, **torch)
    records(rows, tmp_path / "cache", cache_tier=server.url, **torch)
    reask = ("cache", "verify", "--reask", "100%", "--cache-tier", server.url)
    ask = (*reask, "--engine", "torch", "--model", "tiny", "--device", "cpu")
    assert "6 readings, 0 differ" in cached(*ask).stderr
    forge(server, tmp_path / "cache")
    assert "another model gave these answers" in cached(*ask, check=1).stderr


def forge(server: Running, cache: Path) -> None:
    """Somebody who knows the questions puts other answers there."""
    store, seals = Store(cache), Seals()
    for key in store.keys("question"):
        payload = store.get("labels", key)
        assert payload is not None
        table = LabelTable.decode(payload)
        least = min(table.logprobs)
        forged = table._replace(logprobs=tuple([-0.1 if one == least else -9.0 for one in table.logprobs]))
        one = seals.asked("L" + key)
        server.client.set(one.key, seals.seal(one, LabelTable.encode(forged)))
    store.close()


@pytest.mark.parametrize("place", ["option", "variable", "file", "toml"])
def test_the_password_is_never_told(server: Running, cached: Fastqwen, tmp_path: Path, place: str) -> None:
    server.client.config_set("requirepass", PASSWORD)
    rows = asked(tmp_path / "rows.jsonl", range(4))
    url = server.url.replace("//", f"//:{PASSWORD}@")
    environ, typed = {}, []
    if place == "option":
        typed = ["--cache-tier", url]
    elif place == "variable":
        environ = {"FASTQWEN_CACHE_TIER": url}
    elif place == "toml":
        (tmp_path / "fastqwen.toml").write_text(f'cache_tier = "{url}"\n')
    else:
        (tmp_path / "user").write_text(PASSWORD + "\n")
        typed = ["--cache-tier", server.url]
        environ = {"FASTQWEN_CACHE_TIER_USER_FILE": str(tmp_path / "user")}
    out = tmp_path / "out.jsonl"
    ran = cached("probs", rows, "-o", out, "--engine", "scripted", "--debug", *typed, **environ)
    said = [*ran, *cached("settings", *(["--json"] if place == "toml" else []), **environ)]
    said += [*cached("cache", "info", *typed), *cached("doctor", *typed, check=None)]
    wrong = [word.replace(PASSWORD, PASSWORD + "-not") for word in typed]
    said += cached("probs", rows, "-o", tmp_path / "o.jsonl", "--engine", "scripted", "--debug", *wrong)
    said += [path.read_text() for path in tmp_path.glob("out.jsonl*")]
    assert not any(PASSWORD in text for text in said)
    server.client.config_set("requirepass", "")
    assert len(server.values()) == 4
    assert len(read_records(out)) == 4


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://a:1", "give redis://"), ("redis://u:hunter2@", "give redis://"), ("redis://h:1/x", "number")],
)
def test_no_url_of_a_tier(cached: Fastqwen, tmp_path: Path, url: str, said: str) -> None:
    done = cached("probs", asked(tmp_path / "r.jsonl", range(1)), "--cache-tier", url, check=2)
    assert said in done.stderr
    assert "hunter2" not in done.stderr


def test_doctor_tells_what_a_tier_lacks(server: Running, cached: Fastqwen, tmp_path: Path) -> None:
    told = cached("doctor", "--cache-tier", server.url, "--json", check=None)
    (tmp_path / "key").write_text("0123456789abcdef")
    server.client.config_set("maxmemory", "100mb")
    server.client.config_set("maxmemory-policy", "allkeys-lru")
    better = cached(
        "doctor", "--cache-tier", server.url, "--cache-tier-key-file", tmp_path / "key", "--json", check=None
    )
    states = [
        {
            line["what"].partition("/0 ")[2]: line["state"]
            for line in json.loads(done.stdout)
            if "tier" in line["what"]
        }
        for done in (told, better)
    ]
    assert states[0] == {"": "ok", "clock": "ok", "memory": "warning", "writes": "ok", "values": "warning"}
    assert set(states[1].values()) == {"ok"}
    dead = cached("doctor", "--cache-tier", "redis://127.0.0.1:1/0", check=4).stderr
    assert "can't be reached" in dead


def test_a_tier_that_is_away_ends_a_verify(cached: Fastqwen) -> None:
    done = cached("cache", "verify", "--cache-tier", "redis://127.0.0.1:1/0", check=4)
    assert "can't be reached" in done.stderr
    assert "can't be reached" in cached("cache", "info", "--cache-tier", "redis://127.0.0.1:1/0").stdout
