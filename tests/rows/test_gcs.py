"""Inputs and outputs by `gs://`: a store on loopback that speaks Google's interface as far as it is asked."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Fastqwen, read_records
from tests.rows.fake_gcs import Gcs, running
from tgi_stack.errors import DiskError, InputError
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.parts.blocks import cut, read
from tgi_stack.rows.stores.copies import fetch, fetched, objects
from tgi_stack.rows.stores.urls import Place, place_of, store_of

ROWS = [{"id": f"r{n}", "prompt": f"Is {n} even?\n", "labels": ["A", "B"]} for n in range(1, 21)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    """An empty bucket, and the environment of somebody who may use it."""
    with running() as made:
        monkeypatch.setenv("GOOGLE_BASE_URL", made.url)
        # As emulators are used: an account without a key asks nobody for a token.
        nobody: dict[str, str | bool] = {"client_email": "", "private_key": "", "private_key_id": ""}
        nobody |= {"gcs_base_url": made.url, "disable_oauth": True}
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(nobody))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        yield made


def test_a_job_reads_and_writes_google_cloud_storage(store: Gcs, fastqwen: Fastqwen, tmp_path: Path) -> None:
    store.objects["in/rows.jsonl"] = LINES
    (tmp_path / "in.jsonl").write_bytes(LINES)
    fastqwen("probs", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--engine", "scripted")
    job = ("probs", "gs://shop/in/rows.jsonl", "-o", "gs://shop/out/all.jsonl", "--engine", "scripted")
    assert "20 rows: 20 ok" in fastqwen(*job).stderr
    assert store.objects["out/all.jsonl"] == (tmp_path / "out.jsonl").read_bytes()
    assert sorted(store.objects) == ["in/rows.jsonl", "out/all.jsonl", "out/all.jsonl.run.json"]
    assert "is finished" in fastqwen(*job).stderr
    said = fastqwen("verify", "gs://shop/out/all.jsonl").stderr
    assert "FAILED" not in said
    assert read_records(tmp_path / "out.jsonl")[0]["id"] == "r1"


def test_folders_and_patterns_of_a_bucket(store: Gcs) -> None:
    for number in range(4):
        store.objects[f"in/{number}.jsonl"] = LINES[: LINES.index(b"\n") + 1].replace(b"r1", b"r%d" % number)
    store.objects["in/notes.txt"] = b"no rows"
    store.objects["inner/5.jsonl"] = LINES
    folder = open_source("gs://shop/in/", kind="probs")
    ids = [row.value["id"] for row in folder if isinstance(row.value, dict)]
    assert ids == ["r0", "r1", "r2", "r3"]
    some = open_source("gs://shop/in/[12].jsonl", kind="probs")
    assert [row.value["id"] for row in some if isinstance(row.value, dict)] == ["r1", "r2"]


def test_an_object_is_fetched_as_it_was_listed(store: Gcs, tmp_path: Path) -> None:
    """By its tag: one that was written to meanwhile is told; so is one that is not there."""
    with pytest.raises(InputError, match="no such object"):
        fetched(Place("gs", "shop", "in/none.jsonl"))
    store.objects["in/rows.jsonl"] = LINES
    place = place_of("gs://shop/in/rows.jsonl")
    assert place is not None
    copy = fetched(place)
    assert copy.read_bytes() == LINES
    known = next(objects(store_of(place), place))
    store.objects["in/rows.jsonl"] = LINES.replace(b"even", b"ever")
    with pytest.raises(DiskError, match=r"in/rows\.jsonl"):
        fetch(store_of(place), place, tmp_path, known)


def test_blocks_are_read_from_a_bucket(store: Gcs) -> None:
    """By ranges, as actors of many hosts do."""
    store.objects["in/rows.jsonl"] = LINES
    source = open_source("gs://shop/in/rows.jsonl", kind="probs")
    blocks = list(cut(source, len(ROWS), 6))
    assert [row.value for one in blocks for row in read(one, source.wanted)] == ROWS
    assert any("Range" in heads or "range" in heads for _, _, heads in store.asked)


def test_a_key_of_google_is_never_shown(
    store: Gcs, fastqwen: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service account's file: its key signs a question for a token, which nobody here answers."""
    made = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True).stdout
    account = {"client_email": "a@b.example", "private_key": made, "private_key_id": "1"}
    account |= {"type": "service_account", "token_uri": "http://127.0.0.1:1/token"}
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.delenv("GOOGLE_SERVICE_ACCOUNT_KEY")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    done = fastqwen("probs", "gs://shop/in/rows.jsonl", "--engine", "scripted", "--debug", check=None)
    lines = [line for line in made.splitlines() if "-----" not in line]
    assert not any(line in done.stderr + done.stdout for line in lines)
    assert base64.b64encode(made.encode()).decode() not in done.stderr
