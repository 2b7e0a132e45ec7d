"""Figures are the library's own; failed rows, absent positives and ties are counted as the contract says."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from ir_measures import RR, R, nDCG

from tgi_stack.errors import InputError
from tgi_stack.rows import jsonl
from tgi_stack.scoring import distributions, evaluation, metrics
from tgi_stack.scoring.metrics import collect, compare, evaluate, per_query, reread
from tgi_stack.scoring.qrels import read_qrels


def row(
    name: str, order: list[str], positive: list[str], logprobs: list[float] | None = None
) -> dict[str, Any]:
    values = logprobs or [-1.0 - place for place in range(len(order))]
    labels = [f"label {place}" for place in range(len(order))]
    read = {"order": order, "labels": labels, "logprobs": values, "normalised": "vocabulary"}
    pairs = reread([read])
    return {
        "id": name,
        "status": "ok",
        "ranking": [{"id": id, "rank": rank, "score": score} for rank, (id, score) in enumerate(pairs, 1)],
        "reads": [read],
        "positive": positive,
    }


def failed(name: str, positive: list[str] | None = None) -> dict[str, Any]:
    extra = {} if positive is None else {"positive": positive}
    return {"id": name, "status": "failed", "error": {"type": "x", "message": "y", "row": 1}} | extra


def drawn(seed: int, count: int = 60) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        order = [f"c{i}" for i in rng.sample(range(40), rng.randint(2, 25))]
        positive = rng.sample([*order, "absent"], rng.randint(1, 2))
        rows.append(row(f"q {index}", order, positive, [rng.uniform(-9, 0) for _ in order]))
    return rows


def test_figures_are_the_librarys_own(tmp_path: Path) -> None:
    records = drawn(1)
    rankings = collect(records)
    run = tmp_path / "run.txt"
    run.write_text("".join(metrics.trec_lines(rankings)))
    qrels = [
        ir_measures.Qrel(f"q%20{i}", id, 1) for i, record in enumerate(records) for id in record["positive"]
    ]
    theirs = ir_measures.calc_aggregate([R @ 5, nDCG @ 10, RR], qrels, ir_measures.read_trec_run(str(run)))
    ours = evaluate(rankings, [5, 10])
    assert ours["Recall@5"].mean == pytest.approx(theirs[R @ 5], abs=1e-9)
    assert ours["NDCG@10"].mean == pytest.approx(theirs[nDCG @ 10], abs=1e-9)
    assert ours["MRR"].mean == pytest.approx(theirs[RR], abs=1e-9)
    for found in ours.values():
        assert found.low < found.mean < found.high


def test_a_failed_row_counts_0_unless_left_out() -> None:
    records = [row("a", ["x", "y"], ["x"]), failed("b", ["x"]), failed("c")]
    rankings = collect(records)
    assert (rankings.failed, rankings.without_positive) == (2, 1)
    assert evaluate(rankings, [1])["MRR"].mean == 0.5
    assert evaluate(collect(records, exclude_failed=True), [1])["MRR"].mean == 1.0
    assert evaluate(collect([failed("b", ["x"])]), [1])["MRR"].mean == 0.0


def test_missing_positives_stay_in_the_denominator() -> None:
    assert evaluate(collect([row("a", ["x", "y"], ["x", "gone"])]), [5])["Recall@5"].mean == 0.5


def test_ties_keep_the_order_of_the_input() -> None:
    for order in (["z", "a"], ["a", "z"]):
        found = per_query(collect([row("q", order, [order[0]], [-1.0, -1.0])]), [1])
        assert found["Recall@1"]["q"] == 1.0


def test_ids_may_hold_any_character() -> None:
    order = ["\x00a", "\x00b", "\x00"]
    found = per_query(collect([row("q", order, ["\x00b"], [-1.0, -2.0, -3.0])]), [1, 2])
    assert (found["Recall@1"]["q"], found["Recall@2"]["q"], found["MRR"]["q"]) == (0.0, 1.0, 0.5)


def test_rows_without_positives_are_left_out_and_counted() -> None:
    rankings = collect([row("a", ["x"], ["x"]), row("b", ["x"], [])])
    assert (list(rankings.ranked), rankings.without_positive) == (["a"], 1)


def test_dropping_renormalises_what_was_read() -> None:
    reads = [{"order": ["x", "y", "z"], "logprobs": [math.log(0.5), math.log(0.3), math.log(0.1)]}]
    assert dict(reread(reads, drop=["x"])) == pytest.approx({"y": 0.75, "z": 0.25})
    assert collect([row("a", ["x", "y"], ["y"])], drop=["x"]).ranked == {"a": ["y"]}


def test_what_is_to_be_dropped_may_be_misspelt(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    out.write_bytes(jsonl.dumps(row("a", ["x", "y"], ["y"])))
    notes = evaluation.evaluate(out, [1], drop=["x", "Y"]).notes
    assert "no row has a candidate 'Y' to leave out" in notes


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"drop": ["none of them"]}])
@pytest.mark.parametrize("reads", [None, [], row("b", ["x"], [])["reads"], row("b", ["x", "z"], [])["reads"]])
def test_what_was_not_read_is_not_ranked(options: Any, reads: Any) -> None:
    with pytest.raises(InputError, match="record 1 has no `reads` of all"):
        collect([row("a", ["x", "y"], ["y"]) | {"reads": reads}], **options)


def test_rows_in_windows_keep_their_order(tmp_path: Path) -> None:
    kept = row("a", ["x", "y"], ["y"]) | {"window": {"size": 2, "stride": 1}, "reads": []}
    out = tmp_path / "o.jsonl"
    out.write_bytes(jsonl.dumps(kept) + jsonl.dumps(row("b", ["x", "y"], ["y"])))
    found = evaluation.evaluate(out, [1], temperature=2.0)
    assert found.rankings.ranked["a"] == ["x", "y"]
    assert any(note.startswith("1 rows were ranked in windows") for note in found.notes)
    assert not evaluation.evaluate(out, [1]).notes


def test_a_difference_is_held_against_the_noise(tmp_path: Path) -> None:
    """Of 10 rows, 2 change places between two runs of one thing, and 8 in the other output."""

    def written(name: str, turned: int) -> Path:
        orders = [["y", "x", "z"] if n < turned else ["x", "y", "z"] for n in range(10)]
        lines = [jsonl.dumps(row(str(n), order, ["x"])) for n, order in enumerate(orders)]
        (tmp_path / name).write_bytes(b"".join(lines))
        return tmp_path / name

    out, again, other = written("out.jsonl", 0), written("again.jsonl", 2), written("other.jsonl", 8)
    found = evaluation.evaluate(out, [1, 3], noise=again, against=other)
    assert found.noise is not None
    assert found.noise.top1_flips == 2
    assert found.noise.differences["Recall@1"].mean == pytest.approx(0.2)
    assert found.within_noise == ["Recall@3"]  # all three are among the first three
    assert found.as_dict()["within_noise"] == ["Recall@3"]
    assert list(found.printed())[-1] == "within the noise: Recall@3"
    assert evaluation.evaluate(out, [1], against=again, noise=again).within_noise == [
        "Recall@1",
        "NDCG@1",
        "MRR",
    ]
    assert evaluation.evaluate(out, [1], noise=again).within_noise is None


def changed(path: str, value: Any) -> dict[str, Any]:
    """A record of which one value is another."""
    record = row("a", ["x", "y", "z"], ["y"], [-1.0, -0.5, -3.0])
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    holder: Any = record
    for part in parents:
        holder = holder[part]
    holder[last] = value
    return record


@pytest.mark.parametrize("exclude_failed", [True, False])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", 5),
        ("status", "OK"),
        ("status", None),
        ("ranking", None),
        ("ranking", []),
        ("ranking.0.score", "0.9"),
        ("ranking.0.score", True),
        ("ranking.0.score", math.inf),
        ("ranking.0.score", math.nan),
        ("ranking.0.score", None),
        ("ranking.0.score", 0.0),
        ("ranking.0", {"rank": 1, "score": 0.9}),
        ("ranking.0", {"id": "y", "rank": 1}),
        ("ranking.0.rank", 2),
        ("ranking.0.id", "z"),
        ("ranking.0.id", 7),
        ("positive", "y"),
        ("positive", [1]),
        ("positive", [None]),
        ("reads.0.logprobs", [-1.0]),
        ("reads.0.logprobs", [-1.0, -2.0, 0.5]),
        ("reads.0.logprobs", [-1.0, -2.0, True]),
        ("reads.0.logprobs", [-1.0, -2.0, None]),
        ("reads.0.labels", ["A", "B"]),
        ("reads.0.order", ["x", "x", "z"]),
        ("reads.0", {"order": ["x", "y", "z"]}),
        ("reads.0.prior", [-1.0]),
        ("reads.0.prior", [-1.0, -2.0, "x"]),
        ("reads.0.prior", [-1.0, 1.0, -1.0]),
        ("ranking.0.probability", -0.5),
        ("ranking.0.probability", 1.01),
        ("ranking.0.logprob", 0.5),
        ("label_mass", -0.1),
        ("label_mass", 1.5),
        ("reads.0.normalised", "softmax"),
        ("reads.0", "a read"),
        ("window", {"size": "2"}),
    ],
)
def test_no_record_of_rerank_is_no_figure(path: str, value: Any, exclude_failed: bool) -> None:
    records = [row("b", ["x", "y"], ["y"]), changed(path, value)]
    with pytest.raises(InputError, match=r"record 2: .*; eval reads the output of rerank"):
        collect(records, exclude_failed=exclude_failed)


def test_fields_of_others_do_not_matter() -> None:
    assert collect([changed("split", "test"), changed("ranking.1.note", 7) | {"id": "b"}]).failed == 0


@pytest.mark.parametrize("grade", ["1.0", "1_0", "٣", "99999999999", "1000001", "x", ""])
def test_a_grade_is_a_plain_integer(tmp_path: Path, grade: str) -> None:
    path = tmp_path / "q"
    path.write_text(f"u 0 a {grade}\n")
    with pytest.raises(InputError):
        read_qrels(path)


def test_a_temperature_flattens_reads_before_averaging() -> None:
    reads = [
        {"order": ["x", "y"], "logprobs": [math.log(0.96), math.log(0.04)]},
        {"order": ["y", "x"], "logprobs": [math.log(0.6), math.log(0.4)]},
    ]
    assert dict(reread(reads)) == pytest.approx({"x": 0.68, "y": 0.32})
    hot = dict(reread(reads, temperature=1e6))
    assert hot["x"] == pytest.approx(0.5, abs=1e-5)


def test_a_comparison_is_paired() -> None:
    ours = [row("a", ["x", "y", "z"], ["x"]), row("b", ["x", "y", "z"], ["y"])]
    theirs = [row("b", ["y", "x", "z"], ["y"]), row("a", ["x", "y", "z"], ["x"]), row("c", ["x"], ["x"])]
    found = compare(collect(ours), collect(theirs), [1])
    assert (found.queries, found.top1_flips) == (2, 1)
    assert (found.only_this, found.only_other) == (0, 1)
    assert found.differences["Recall@1"].mean == -0.5
    assert found.kendall_tau == pytest.approx((1 + 1 / 3) / 2)


def test_an_agreement_of_nothing_is_no_number() -> None:
    found = compare(collect([row("a", ["x"], ["x"])]), collect([row("a", ["x"], ["x"])]), [1])
    assert found.kendall_tau is None


def test_qrels_take_the_place_of_positives(tmp_path: Path) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text("a%20b 0 y 1\n\n")
    assert read_qrels(path).grades == {"a b": {"y": 1}}
    found = collect([row("a b", ["x", "y"], ["x"])], qrels=read_qrels(path))
    assert evaluate(found, [1])["MRR"].mean == 0.5
    path.write_text("a 0 y\n")
    with pytest.raises(InputError, match=r"qrels\.txt:1"):
        read_qrels(path)


@pytest.mark.parametrize("id", ["a%20b", "50%25", "caf%E9", "a b", "100%"])
@pytest.mark.parametrize("written", ["as it is", "encoded"])
def test_ids_with_percent_signs_find_their_grades(tmp_path: Path, id: str, written: str) -> None:
    if written == "as it is" and " " in id:
        return
    spelled = id if written == "as it is" else id.replace("%", "%25").replace(" ", "%20")
    path = tmp_path / "qrels"
    path.write_text(f"{spelled} 0 {spelled} 1\n")
    found = collect([row(id, ["x", id], [])], qrels=read_qrels(path))
    assert found.relevant == {id: {id: 1}}
    assert found.without_record == ()


def test_both_spellings_of_an_id_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "qrels"
    path.write_text("q 0 a%20b 1\n")
    found = collect([row("q", ["a%20b", "a b"], [])], qrels=read_qrels(path))
    assert found.relevant == {"q": {"a b": 1}}


@pytest.mark.parametrize("logprobs", [[-1.8, -1.9, -0.2], [-0.5, -1.9, -2.6], [-2.4, -1.3, -2.8]])
def test_ties_over_permutations_stay_ties(logprobs: list[float]) -> None:
    ids = ["a", "b", "c"]
    turned = [ids[turn:] + ids[:turn] for turn in distributions.rotations(3, 3)]
    reads = [{"order": order, "logprobs": logprobs} for order in turned]  # by the place alone: all tie
    each = [dict(zip(order, distributions.softmax(logprobs), strict=True)) for order in turned]
    means = distributions.mean([[one[id] for id in ids] for one in each])
    assert reread(reads) == [(ids[place], means[place]) for place in distributions.order(means)]


def test_doubled_lines_of_qrels_are_said(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text("a 0 x 1\na 0 y 0\n\na 0 y 0\na Q0 x 1\n")
    assert read_qrels(path).grades == {"a": {"x": 1, "y": 0}}
    assert said == [f"{path}: lines that repeat an earlier one count once: 2 (first line 4)"]
    path.write_text("a 0 x 1\na 0 y 0\na 0 y 2\n")
    with pytest.raises(InputError, match=r"qrels\.txt:3: 'y' of query 'a' has the grade 2, in line 2 0"):
        read_qrels(path)


def test_ids_with_white_space_survive_a_trec_file() -> None:
    lines = list(metrics.trec_lines(collect([row("u 1", ["a\tb", "50%"], ["a\tb"])])))
    assert [line.split()[:3] for line in lines] == [["u%201", "Q0", "a%09b"], ["u%201", "Q0", "50%25"]]
    assert all(len(line.split()) == 6 for line in lines)
