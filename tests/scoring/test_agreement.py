"""How far outputs are apart: pairs by id, exact quantiles, and what each kind of row counts as."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import write_rows
from tgi_stack.errors import FastqwenError, InputError, UsageError
from tgi_stack.rows import jsonl, parquet
from tgi_stack.scoring.agreement.answers import Answer
from tgi_stack.scoring.agreement.compare import compare
from tgi_stack.scoring.agreement.pairs import Pairing
from tgi_stack.scoring.agreement.quantiles import Quantiles

Row = dict[str, Any]


def ranking(id: str, exact: bool = True, **probabilities: float | None) -> Row:
    """A record of `rerank`, its candidates in the order that is given."""
    values = list(enumerate(probabilities.items(), 1))
    entries = [
        {"id": name, "rank": rank, "score": 1.0 / rank, "probability": one} for rank, (name, one) in values
    ]
    return {"id": id, "status": "ok", "ranking": entries, "exact": exact, "flags": []}


def labels(id: str, **probabilities: float) -> Row:
    found = {"labels": list(probabilities), "probabilities": list(probabilities.values())}
    return {"id": id, "status": "ok", **found, "exact": True}


def summary(id: str, text: str, sha256: str = "5") -> Row:
    sizes = dict.fromkeys(("width", "height", "sent_width", "sent_height"), 28)
    return {"id": id, "status": "ok", "summary": text, "image": {"sha256": sha256, **sizes}}


def failed(id: str | None) -> Row:
    error = {"type": "text.too_long", "message": "too long", "row": 1}
    return {"id": id, "status": "failed", "error": error, "attempts": 0}


X = summary("1", "x")


def figures(folder: Path, first: list[Row], second: list[Row], limit: float = 0.03) -> Row:
    """What `compare` gives to programs of two outputs."""
    outs = [write_rows(folder / "a.jsonl", *first), write_rows(folder / "b.jsonl", *second)]
    found: Row = compare(outs, limit).as_dict()["pairs"][0]
    return found


@given(
    ids=st.lists(st.text(max_size=3), max_size=40, unique=True),
    cut=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    waiting=st.integers(0, 8),
    data=st.data(),
)
def test_every_id_meets_its_partner(
    ids: list[str], cut: tuple[int, int], waiting: int, data: st.DataObject
) -> None:
    sides = [data.draw(st.permutations(ids))[: len(ids) - skipped or None] for skipped in cut]
    sides = [side if skipped <= len(ids) else [] for side, skipped in zip(sides, cut, strict=True)]
    outputs = [[Answer(place, id, True, (id,)) for place, id in enumerate(side, 1)] for side in sides]
    with Pairing(("a", "b"), waiting=waiting) as pairing:
        found = list(pairing.pairs(*outputs))
    known = [{one.id: one for one in side} for side in outputs]
    expected = {id: (known[0].get(id), known[1].get(id)) for id in {*known[0], *known[1]}}
    assert len(found) == len(expected)
    assert {(one[0] or one[1] or Answer(0, "", True)).id: one for one in found} == expected


@given(
    values=st.lists(st.floats(0.0, 1.0) | st.sampled_from([0.0, 1e-9, 0.5, 1.0]), min_size=1, max_size=60),
    share=st.floats(0.0, 1.0),
    block=st.integers(1, 50),
)
def test_quantiles_are_exact(values: list[float], share: float, block: int) -> None:
    found = Quantiles(block=block)
    for start in range(0, len(values), 7):
        found.add(values[start : start + 7])
    assert found.largest == max(values)
    assert found.quantile(share) == pytest.approx(np.quantile(values, share), abs=1e-12)
    found.close()


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 1.0]) | st.floats(0, 1), min_size=1, max_size=40),
    st.lists(st.sampled_from([0.0, 0.1, 1.0]) | st.floats(0, 1), min_size=1, max_size=9).map(sorted),
    st.integers(1, 9),
)
def test_shares_within_bounds_are_exact(values: list[float], bounds: list[float], block: int) -> None:
    found = Quantiles(block=block)
    for value in values:
        found.add([value])
    told = [sum(value <= bound for value in values) / len(values) for bound in bounds]
    assert found.within(bounds) == pytest.approx(told)


def test_no_number_has_no_quantile() -> None:
    assert Quantiles().quantile(0.99) is None


def test_rankings_differ_by_probability_order_and_first(tmp_path: Path) -> None:
    first = [ranking("1", a=0.5, b=0.3, c=0.2), ranking("2", a=0.6, b=0.4)]
    second = [ranking("2", b=0.52, a=0.48), ranking("1", a=0.49, b=0.31, c=0.2)]
    found = figures(tmp_path, first, second)
    assert not found["within"]
    assert found["rows"] == found["rankings"] == 2
    assert found["probabilities"]["largest"] == pytest.approx(0.12)
    everything = [0.01, 0.01, 0.0, 0.12, 0.12]
    assert found["probabilities"]["percentile_99"] == pytest.approx(np.quantile(everything, 0.99))
    assert found["probabilities"]["farthest"] == "2"
    assert found["kendall_tau"] == pytest.approx(0.0)  # 1 and -1
    assert found["first_differs"] == 1
    assert [one["id"] for one in found["apart"]] == ["2"]
    assert figures(tmp_path, first, second, limit=0.121)["within"]


ONE = {"first": 1, "second": 0}


@pytest.mark.parametrize(
    ("first", "second", "within", "counts"),
    [
        ([labels("1", A=0.7, B=0.3)], [labels("1", B=0.3, A=0.7)], True, {"rows": 1}),
        ([labels("1", A=0.7, B=0.3)], [labels("1", A=0.6, B=0.4)], False, {"beyond": 1}),
        ([summary("1", "a mug")], [summary("1", "a mug")], True, {"rows": 1, "beyond": 0}),
        ([summary("1", "a mug")], [summary("1", "a hat")], False, {"beyond": 1}),
        ([X, summary("2", "x")], [X], True, {"only": ONE}),
        ([X], [summary("1", "x", sha256="6")], False, {"asked_otherwise": 1, "rows": 0}),
        ([failed("1")], [failed("1")], True, {"failed": {"first": 0, "second": 0, "both": 1}}),
        ([failed("1")], [X], False, {"failed": {"first": 1, "second": 0, "both": 0}}),
        ([X], [failed("1")], False, {"failed": {"first": 0, "second": 1, "both": 0}}),
        ([failed(None), X], [X], True, {"without_id": ONE}),
        ([ranking("1", a=1.0)], [ranking("1", b=1.0)], False, {"asked_otherwise": 1, "rows": 0}),
        ([ranking("1", a=None, b=None)], [ranking("1", a=None, b=None)], True, {"first_differs": 0}),
        ([ranking("1", a=None, b=None)], [ranking("1", b=None, a=None)], False, {"first_differs": 1}),
        ([ranking("1", a=0.9, b=0.1)], [ranking("1", a=None, b=None)], True, {"beyond": 0}),
        ([ranking("1", a=0.9, b=0.1)], [ranking("1", False, a=0.9, b=0.1)], False, {"bounded": 1}),
        (
            [ranking("1", a=0.9, b=0.1), ranking("2", a=1.0)],
            [ranking("1", False, a=0.5, b=0.5), ranking("2", a=1.0)],
            True,
            {"bounded": 1, "rows": 2},
        ),
    ],
)  # fmt: skip
def test_what_rows_count_as(
    tmp_path: Path, first: list[Row], second: list[Row], within: bool, counts: Row
) -> None:
    found = figures(tmp_path, first, second)
    assert found["within"] is within
    assert {name: found[name] for name in counts} == counts


def test_a_share_of_texts_may_differ(tmp_path: Path) -> None:
    first = [summary(str(n), "x") for n in range(10)]
    second = [*first[:9], summary("9", "y")]
    assert figures(tmp_path, first, second, limit=0.1)["within"]
    assert not figures(tmp_path, first, second, limit=0.09)["within"]


@pytest.mark.parametrize(
    ("first", "second", "kind", "said"),
    [
        ([ranking("1", a=1.0)], [X], UsageError, "outputs of one job"),
        ([ranking("1", a=1.0)], [ranking("2", a=1.0)], InputError, "no row in common"),
        ([], [], InputError, "no row in common"),
        ([X, summary("1", "y")], [X], InputError, "1 and 2 have one id"),
        ([X, labels("2", A=1.0)], [X], InputError, "a record of probs"),
        ([ranking("1", a=7.0)], [ranking("1", a=1.0)], InputError, "a `probability` that is none"),
        ([labels("1", A=1.0) | {"labels": ["A", "A"]}], [labels("1", A=1.0)], InputError, "2 labels (1 of"),
        ([labels("1", A=-0.5, B=0.5)], [labels("1", A=1.0)], InputError, "`probabilities`: one that is none"),
        ([labels("1", A=1.0) | {"label_mass": -1.0}], [labels("1", A=1.0)], InputError, "`label_mass`"),
        ([labels("1", A=1.0) | {"logprobs": [2.0]}], [labels("1", A=1.0)], InputError, "`logprobs`"),
        ([labels("1", A=1.0) | {"logprobs": []}], [labels("1", A=1.0)], InputError, "`logprobs`"),
        ([{"id": "1"}], [labels("1", A=1.0)], InputError, "no record of a job"),
        ([{"id": "1", "status": "ok"}], [labels("1", A=1.0)], InputError, "neither `ranking`"),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, first: list[Row], second: list[Row], kind: type[FastqwenError], said: str
) -> None:
    with pytest.raises(kind, match=said.replace("(", r"\(")):
        figures(tmp_path, first, second)


def test_all_forms_of_an_output_compare_alike(tmp_path: Path) -> None:
    rows = [ranking(str(n), a=0.6, b=0.4) for n in range(6)]
    lines = [jsonl.dumps(row) for row in rows]
    plain, table, parts = tmp_path / "o.jsonl", tmp_path / "o.parquet", tmp_path / "parts"
    plain.write_bytes(b"".join(lines))
    with table.open("wb") as file:
        parquet.write("rerank", file, lines)
    with gzip.open(tmp_path / "o.jsonl.gz", "wb") as file:
        file.write(b"".join(lines))
    with pa.CompressedOutputStream(str(tmp_path / "o.jsonl.zst"), "zstd") as out:
        out.write(b"".join(lines))
    parts.mkdir()
    (parts / "part-1.jsonl").write_bytes(b"".join(lines[3:]))
    (parts / "part-0.jsonl").write_bytes(b"".join(lines[:3]))
    (parts / "run.json").write_text(json.dumps({"state": "complete", "asked": {"job": "rerank"}}))
    (parts / "_SUCCESS").touch()
    outs = [plain, table, tmp_path / "o.jsonl.gz", tmp_path / "o.jsonl.zst", parts]
    found = compare(outs, 0.0).as_dict()
    assert len(found["pairs"]) == 10
    assert all(pair["within"] and pair["rows"] == 6 for pair in found["pairs"])


@pytest.mark.parametrize("name", ["none.jsonl", "empty", "rows.csv"])
def test_what_is_no_output_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("id\n1\n")
    good = write_rows(tmp_path / "a.jsonl", X)
    with pytest.raises(InputError, match=name):
        compare([good, tmp_path / name], 0.03)


def test_noise_is_told_apart(tmp_path: Path) -> None:
    outs = [
        write_rows(tmp_path / f"{name}.jsonl", ranking("1", a=0.5 + by, b=0.5 - by))
        for name, by in (("a", 0.01), ("b", 0.05), ("again", 0.02))
    ]
    found = compare(outs[:2], 0.03, noise=outs[2])
    assert not found.within
    assert found.as_dict()["pairs"][0]["beyond_noise"] is True
    assert found.as_dict()["noise"]["probabilities"]["largest"] == pytest.approx(0.01)
    assert compare(outs[:1], 0.001, noise=outs[2]).within  # noise is shown, not judged
