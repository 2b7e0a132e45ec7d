"""Inputs and outputs in a store by URL, an S3 server on loopback: whole or absent there, no secret shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from tests.conftest import Fastqwen, read_records
from tgi_stack.errors import FastqwenError, UsageError
from tgi_stack.rows.ledger import Checked
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.parts.blocks import Place as Seat
from tgi_stack.rows.parts.blocks import cut, read
from tgi_stack.rows.parts.output import PartsOutput
from tgi_stack.rows.stores.copies import fetched
from tgi_stack.rows.stores.staging import mirror_of, staged
from tgi_stack.rows.stores.urls import Place, place_of
from tgi_stack.types import Identity

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"  # noqa: S105  # that of AWS's own examples
ROWS = [{"id": f"r{n}", "prompt": f"Is {n} even?\n", "labels": ["A", "B"]} for n in range(1, 21)]
IDENTITY = Identity("torch", "tiny", "shipped", "none", "fp32", "d1", "v")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture
def store(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket that is empty, and the environment of somebody who may use it."""
    given = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET}
    given |= {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": server, "AWS_ALLOW_HTTP": "true"}
    for name, value in (given | {"XDG_STATE_HOME": str(tmp_path / "state")}).items():
        monkeypatch.setenv(name, value)
    import boto3

    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="shop")
    made = S3Store("shop", client_options={"allow_http": True})
    yield made
    for part in obstore.list(made):
        for one in part:
            client.delete_object(Bucket="shop", Key=one["path"])
    client.delete_bucket(Bucket="shop")


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def keys(store: Any) -> list[str]:
    return sorted(one["path"] for part in obstore.list(store) for one in part)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("s3://shop/a/b.jsonl", Place("s3", "shop", "a/b.jsonl")),
        (Path("s3://shop/a/b.jsonl"), Place("s3", "shop", "a/b.jsonl")),
        ("gs://shop", Place("gs", "shop", "")),
        ("rows.jsonl", None),
        ("/s3://x", None),
        ("s3", None),
        (Path("s3/rows.jsonl"), None),
        ("https://shop/x", None),
    ],
)
def test_what_is_a_url_of_a_store(value: str | Path, place: Place | None) -> None:
    assert place_of(value) == place


@pytest.mark.parametrize(
    "url",
    [
        f"s3://user:{SECRET}@shop/x",
        f"s3://shop/x?secret_access_key={SECRET}",
        f"s3://shop/x#{SECRET}",
        "s3://-/x",
        "gs://A B/x",
    ],
)
def test_a_url_with_more_is_refused_unread(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        place_of(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_job_reads_and_writes_a_store(store: Any, fastqwen: Fastqwen, tmp_path: Path, kind: str) -> None:
    here = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), here)
    else:
        here.write_bytes(lines(ROWS))
    obstore.put(store, f"in/rows.{kind}", here)
    fastqwen("probs", here, "-o", tmp_path / f"out.{kind}", "--engine", "scripted")
    out = f"s3://shop/out/all.{kind}"
    job = ("probs", f"s3://shop/in/rows.{kind}", "-o", out, "--engine", "scripted")
    assert "20 rows: 20 ok" in fastqwen(*job).stderr
    assert bytes(obstore.get(store, f"out/all.{kind}").bytes()) == (tmp_path / f"out.{kind}").read_bytes()
    assert keys(store) == [f"in/rows.{kind}", f"out/all.{kind}", f"out/all.{kind}.run.json"]
    assert not list((tmp_path / "state").rglob("*.jsonl"))
    assert "is finished" in fastqwen(*job).stderr
    said = fastqwen("verify", out).stderr
    assert "FAILED" not in said
    assert "not checked" not in said
    noted = bytes(obstore.get(store, f"out/all.{kind}.run.json").bytes())
    assert json.loads(noted)["input"]["name"] == f"s3://shop/in/rows.{kind}"
    assert SECRET.encode() not in noted


def test_folders_and_patterns_are_one_input(store: Any, tmp_path: Path) -> None:
    for number in range(4):
        obstore.put(store, f"in/{number}.jsonl", lines(ROWS[5 * number : 5 * number + 5]))
    obstore.put(store, "in/deep/4.csv", b"id,prompt\nx,y\n")
    obstore.put(store, "in/notes.txt", b"no rows")
    obstore.put(store, "inner/5.jsonl", lines(ROWS))
    folder = open_source("s3://shop/in/", kind="probs")
    assert [row.value["id"] for row in folder if isinstance(row.value, dict)] == [
        *(row["id"] for row in ROWS),
        "x",
    ]
    some = open_source("s3://shop/in/[12].jsonl", kind="probs")
    assert [row.value for row in some] == ROWS[5:15]
    (tmp_path / "here").mkdir()
    for number in range(3):
        (tmp_path / "here" / f"{number}.jsonl").write_bytes(lines(ROWS[number : number + 1]))
    here = open_source(str(tmp_path / "here" / "[02].jsonl"))
    assert [row.value for row in here] == [ROWS[0], ROWS[2]]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_blocks_are_read_where_they_are(store: Any, tmp_path: Path, kind: str) -> None:
    here = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), here, row_group_size=6)
    else:
        here.write_bytes(lines(ROWS))
    obstore.put(store, f"rows.{kind}", here)
    source = open_source(f"s3://shop/rows.{kind}", kind="probs")
    blocks = list(cut(source, 20, 7))
    assert all(isinstance(one.rows, Seat) and one.rows.path.startswith("s3://") for one in blocks)
    assert [row.value for one in blocks for row in read(one, source.wanted)] == ROWS
    obstore.put(store, f"rows.{kind}", lines(ROWS[:5]))
    with pytest.raises(FastqwenError):
        read(blocks[0], source.wanted)


def test_an_unfinished_file_is_not_there(store: Any, tmp_path: Path) -> None:
    out = Path("s3://shop/out.jsonl")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(out)
    assert keys(store) == []
    with staged(out, overwrite=False) as here:
        assert here is not None
        assert here.with_name("out.jsonl.part.jsonl").read_text() == "half"


def _interrupted(out: Path) -> None:
    with staged(out, overwrite=False) as here:
        assert here is not None
        here.with_name("out.jsonl.part.jsonl").write_text("half")
        raise KeyboardInterrupt


def test_somebody_elses_object_is_not_replaced(store: Any, fastqwen: Fastqwen, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(ROWS))
    obstore.put(store, "out.jsonl", b"holiday")
    job = ("probs", "in.jsonl", "-o", "s3://shop/out.jsonl", "--engine", "scripted")
    assert "without a run.json" in fastqwen(*job, check=2).stderr
    assert bytes(obstore.get(store, "out.jsonl").bytes()) == b"holiday"
    fastqwen(*job, "--overwrite")
    assert len(bytes(obstore.get(store, "out.jsonl").bytes()).splitlines()) == 20
    obstore.put(store, "out.jsonl", b"{}\n")
    assert "was changed since" in fastqwen(*job, check=2).stderr


@pytest.mark.parametrize("wrong", ["bucket", "object", "key", "server"])
def test_what_fails_is_told_without_secrets(
    store: Any, fastqwen: Fastqwen, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr("tgi_stack.rows.stores.urls.RETRIES", {"max_retries": 0})
    if wrong == "server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    url = {"bucket": "s3://other-shop/in.jsonl", "key": "s3://shop/../x.jsonl"}.get(
        wrong, "s3://shop/x.jsonl"
    )
    said = fastqwen("probs", url, "--engine", "scripted", check=None)
    assert said.stderr.startswith("fastqwen: s3://")
    assert len(said.stderr.splitlines()) == 1
    assert SECRET not in said.stderr
    assert "AKIAIOSFODNN7EXAMPLE" not in said.stderr


def test_no_object_leaves_the_folder(store: Any) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=None)
    client.put_object(Bucket="shop", Key="in/a/../../../evil.jsonl", Body=b"{}")
    client.put_object(Bucket="shop", Key="in/b.jsonl", Body=b"{}")
    with pytest.raises(FastqwenError):
        fetched(Place("s3", "shop", "in"))
    client.delete_object(Bucket="shop", Key="in/a/../../../evil.jsonl")


def test_offline_opens_no_store(fastqwen: Fastqwen) -> None:
    assert (
        "--offline opens no connection" in fastqwen("probs", "s3://shop/x.jsonl", "--offline", check=2).stderr
    )


def test_parts_go_on_from_another_host(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(ROWS))
    source = open_source(str(tmp_path / "in.jsonl"), kind="probs")
    for host, most in (("one", 1), ("two", 9)):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / host))
        mirror = mirror_of(Path("s3://shop/out"))
        assert mirror is not None
        mirror.fetch_all()
        places = {"input": {"name": str(tmp_path / "in.jsonl"), "columns": {}}}
        asked = {"job": "probs", "input": source.digest()}
        sink = PartsOutput(mirror.local, asked, command=["fastqwen"], places=places, mirror=mirror)
        sink.begin(Checked(20, strict=True))
        sink.set_identity(IDENTITY)
        blocks = list(cut(source, 20, 8, sink.parts))
        assert [block.first for block in blocks] == {"one": [1, 9, 17], "two": [9, 17]}[host]
        for block in blocks[:most]:
            numbers = range(block.first, block.last + 1)
            sink.write(block, lines([{"id": f"r{n}", "status": "ok"} for n in numbers]))
        counts = {"rows": 20, "input_rows": 20, "ok": 20, "cached": 0, "failed": 0}
        if host == "two":
            sink.finish(counts)
        sink.close(counts)
    assert [key.rpartition("/")[2] for key in keys(store)] == [
        "_SUCCESS",
        "part-000000000001-000000000008.jsonl",
        "part-000000000009-000000000016.jsonl",
        "part-000000000017-000000000020.jsonl",
        "run.json",
    ]
    nowhere = mirror_of(Path("s3://no-such-shop/out"))
    assert nowhere is not None
    with pytest.raises(FastqwenError):
        nowhere.put(tmp_path / "in.jsonl")


def test_a_report_reads_what_lies_in_a_store(store: Any, fastqwen: Fastqwen, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(ROWS))
    job = ("probs", "in.jsonl", "-o", "s3://shop/out.jsonl", "--engine", "scripted")
    fastqwen(*job)
    fastqwen("compare", "s3://shop/out.jsonl", "s3://shop/out.jsonl")
    fastqwen("report", "s3://shop/out.jsonl", "-o", tmp_path / "page.html")
    assert read_records(tmp_path / "in.jsonl") == ROWS
