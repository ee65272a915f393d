"""From traces to rows: splits, one workload by hand, files, and the committed series."""

import json
from contextlib import suppress
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_world import toy_series

from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.files import headed, limits, places
from rapgym.scenarios import build as workloads
from rapgym.scenarios import worlds
from rapgym.scenarios.catalogue import shipped
from rapgym.scenarios.story import GIB, Recorded, Scenario
from rapgym.workload import series
from rapgym.workload.series import Series
from rapgym.workload.trace import RequestTrace

COMMITTED = [story for story in shipped() if not story.is_drawn]


def trace(*requests: tuple[float, int, int], name: str = "toy") -> RequestTrace:
    """(arrival, prompt, output) of each request."""
    arrival_s, prompt, output = zip(*requests, strict=True)
    return RequestTrace(name, np.array(arrival_s), np.array(prompt), np.array(output))


def built(
    served: RequestTrace,
    tenant: RequestTrace | None = None,
    *,
    start_s: float = 0.0,
    stop_s: float = 10.0,
    offset_s: float = 0.0,
    pool_tokens: int = 100,
) -> Series:
    seconds = series.whole_rows(start_s, stop_s, 2) * 2
    held = np.zeros(seconds, dtype=np.int64)
    if tenant is not None:
        held = series.queued_tokens(tenant, pool_tokens, start_s + offset_s, seconds)
    return series.build(served, held, window=2, start_s=start_s, stop_s=stop_s, origin={})


def same(one: Series, other: Series) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(Series)
    )


def assert_train_is_cut_into_blocks(part: dict[str, list[int]]) -> None:
    """Each row of train is held out in one fold, and each fold's blocks are contiguous in train."""
    train = part["train"]
    assert part["validation-1"] + part["validation-2"] + part["validation-3"] == train
    sizes = [len(part[f"validation-{fold}"]) for fold in series.FOLDS]
    assert max(sizes) - min(sizes) <= 1
    for whole, suffix in (
        (train, ""),
        *((part[f"fit-{fold}"], f"-{fold}") for fold in series.FOLDS),
    ):
        learn, check = part[f"learn{suffix}"], part[f"check{suffix}"]
        assert sorted(learn + check) == whole
        if not check:  # of so few rows
            continue
        first = whole.index(check[0])
        assert whole[first : first + len(check)] == check, "one stretch"
        assert abs(first - (len(whole) - first - len(check))) <= 1, "in the middle"
    for fold in series.FOLDS:
        held_out = {*part[f"validation-{fold}"]}
        assert part[f"fit-{fold}"] == [row for row in train if row not in held_out]


@given(st.integers(0, 5000))
def test_splits_are_disjoint_in_order_and_of_the_stated_size(rows: int) -> None:
    part = {name: series.split_rows(rows, name).tolist() for name in series.SPLITS}
    assert_train_is_cut_into_blocks(part)
    assert part["train"] == list(range(len(part["train"]))), "train begins with the first row"
    assert part["test"] == list(range(rows - len(part["test"]), rows)), "test ends with the last"
    gap = rows - len(part["train"]) - len(part["test"])
    for size, share in (
        (len(part["train"]), 0.70 * rows),
        (len(part["test"]), 0.25 * rows),
        (len(part["check"]), 0.15 * len(part["train"])),
    ):
        assert share - 1 - 1e-9 <= size <= share + 1e-9
    assert gap >= 0.05 * rows - 1e-9, "a gap between train and test"


@given(st.integers(0, 5000))
def test_blocked_splits_alternate_and_leave_a_gap_where_they_meet(rows: int) -> None:
    part = {name: series.split_rows(rows, name, "blocked").tolist() for name in series.SPLITS}
    assert_train_is_cut_into_blocks(part)
    assert part["train"] == sorted(part["train"])
    assert part["test"] == sorted(part["test"])
    if rows >= 16 * series.STRETCHES:
        owner = {row: name for name in ("train", "test") for row in part[name]}
        in_turn = [name for _, name in sorted(owner.items())]
        changes = [a for a, b in pairwise(in_turn) if a != b]
        assert changes == ["train", "test"] * 3 + ["train"], "eight stretches, train first"
        apart = [b - a for a, b in pairwise(sorted(owner))]
        assert sorted(apart)[-7:] == [series.GAP_ROWS + 1] * 7, (
            "as many rows between as are seen back"
        )


@pytest.mark.parametrize("window", [1, 2, 3, 6, 7, 11])
def test_days_are_split_at_midnight(window: int) -> None:
    rows = series.DAYS * 86_400 // window
    part = {name: series.split_rows(rows, name, "days") for name in series.SPLITS}
    assert_train_is_cut_into_blocks({name: found.tolist() for name, found in part.items()})
    assert part["train"][0] == 0
    day_11_s = 10 * 86_400
    assert day_11_s - 2 * window < (part["train"][-1] + 1) * window <= day_11_s
    # A row's batch arrived in the window before it: that lies in day 11 too, as does all that is seen.
    first_s = (part["test"][0] - series.GAP_ROWS) * window
    assert day_11_s <= first_s + 2 * window
    assert (part["test"][0] - 1) * window >= day_11_s
    assert part["test"][-1] == rows - 1


def test_an_unknown_split_is_refused_by_name() -> None:
    with pytest.raises(InvalidSpec, match="train, learn, check, test, fit-1"):
        series.split_rows(10, "tests")


def test_a_workload_by_hand() -> None:
    # Windows of 2 s from 0 to 10: five rows; row t holds what arrived in [2t - 2, 2t). The train part
    # is [0, 7): outputs 5, 1, 30, 2, whose 95th percentile that is observed is 30. The 50 of the
    # request at 9.0 would be cut there, but its row begins at 10.
    served = trace(
        (0.0, 10, 5), (1.5, 20, 1), (2.0, 7, 30), (6.5, 9, 2), (7.0, 8, 40), (9.0, 3, 50)
    )
    # The tenant holds 60 tokens from 3.0 on for 0.2 ms x 10 + 30 ms x 50 = 1.502 s.
    made = built(served, trace((3.0, 10, 50)))
    assert made.reserve_tokens == 30
    assert made.window_s == 2
    assert len(made) == 5
    assert made.batch.tolist() == [0, 2, 1, 0, 2]
    assert made.prompt_tokens.tolist() == [0, 30, 7, 0, 17]
    assert made.output_tokens.tolist() == [0, 6, 30, 0, 32], "40 is cut at the reserve"
    assert made.longest_prompt_tokens.tolist() == [0, 20, 7, 0, 9]
    assert made.tenant_tokens.tolist() == [[0, 0], [0, 60], [60, 0], [0, 0], [0, 0]]
    assert made.requests.tolist() == ["", "10/5 20/1", "7/30", "", "9/2 8/30"]


def test_a_later_start_keeps_the_window_before_it_and_the_tenants_queue() -> None:
    served = trace((0.0, 10, 5), (1.5, 20, 1), (2.0, 7, 3), (4.0, 1, 1))
    # On the tenant's clock everything is 100 s later; its request came at -1 of the served clock.
    tenant = trace((99.0, 10, 150))
    made = built(served, tenant, start_s=1.0, stop_s=5.9, offset_s=100.0, pool_tokens=160)
    # Rows begin at 1 and 3 (5 to 7 is no whole window); the batch of the first is of [-1, 1).
    assert made.batch.tolist() == [1, 2]
    assert made.prompt_tokens.tolist() == [10, 27]
    assert made.requests.tolist() == ["10/3", "20/1 7/3"], "5 is cut at the reserve"
    # It stays for 4.502 s: until 3.502 of the served clock.
    assert made.tenant_tokens.tolist() == [[160, 160], [160, 0]]


def test_the_reserve_comes_from_the_train_part_alone() -> None:
    quiet = [(t / 10, 5, 1) for t in range(70)]
    made = built(trace(*quiet, (7.0, 5, 900), (8.0, 5, 900)))
    assert made.reserve_tokens == 1
    assert made.output_tokens[4] == 10 + 1, "ten quiet ones of [6, 7), and one cut to the reserve"


def test_no_request_to_learn_the_reserve_from_is_refused() -> None:
    with pytest.raises(InvalidTrace, match="no request in the train part"):
        built(trace((9.0, 1, 1)))


@given(st.integers(1, 30), st.integers(0, 99))
def test_a_part_is_a_series_of_its_rows(rows: int, seed: int) -> None:
    whole = toy_series(rows, seed)
    part = whole.part(np.arange(rows // 2, rows))
    assert len(part) == rows - rows // 2
    assert (part.tenant_tokens == whole.tenant_tokens[rows // 2 :]).all()
    assert (part.prompt_tokens == whole.prompt_tokens[rows // 2 :]).all()
    assert (part.requests == whole.requests[rows // 2 :]).all()
    part.prompt_tokens[:] = -1
    part.requests[:] = "none"
    assert same(whole, toy_series(rows, seed)), "a part is a copy"


def test_single_requests_by_hand() -> None:
    made = built(trace((0.0, 10, 5), (1.5, 20, 1), (2.0, 7, 3), (6.5, 9, 2)))
    found = made.single_requests()
    assert found.first.tolist() == [0, 0, 2, 3, 3, 4]
    assert found.prompt_tokens.tolist() == [10, 20, 7, 9]
    assert found.output_tokens.tolist() == [5, 1, 3, 2]


@given(st.integers(1, 40), st.integers(0, 99))
def test_single_requests_add_up_to_their_rows(rows: int, seed: int) -> None:
    whole = toy_series(rows, seed)
    found = whole.single_requests()
    assert len(found.first) == rows + 1
    for row, (start, stop) in enumerate(pairwise(found.first)):
        assert stop - start == whole.batch[row]
        assert found.prompt_tokens[start:stop].sum() == whole.prompt_tokens[row]
        assert found.output_tokens[start:stop].sum() == whole.output_tokens[row]


def test_rows_without_single_requests_are_said_to_have_none() -> None:
    thinned = toy_series(20).without_requests(np.arange(15))
    assert same(thinned.part(np.arange(15, 20)), toy_series(20).part(np.arange(15, 20)))
    assert len(thinned.part(np.arange(15, 20)).single_requests().first) == 6
    with pytest.raises(InvalidTrace, match="keeps no single requests of 15 of these 20 rows"):
        thinned.single_requests()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("11/5 19/1", "add up"),  # the longest prompt is 20
        ("10/4 20/1", "add up"),
        ("10/5 20/2", "add up"),
        ("40/5 -10/1", "add up"),
        ("10/7 20/-1", "add up"),
        ("10/6 20/0", "add up"),  # 5 are reserved
        ("10/5", "as many requests"),
        ("10/5 20/1 0/0", "as many requests"),
        ("10/5 20/x", "cannot be read"),
        ("10/5 /1", "cannot be read"),
        ("10/5 20/99999999999999999999", "cannot be read"),
    ],
)
def test_requests_that_contradict_their_row_are_refused(text: str, what: str) -> None:
    made = built(trace((0.0, 10, 5), (1.5, 20, 1)))
    assert made.requests[1] == "10/5 20/1"
    requests = made.requests.copy()
    requests[1] = text
    with pytest.raises(InvalidTrace, match=what):
        replace(made, requests=requests).single_requests()


def test_a_series_reads_back_and_gives_the_same_bytes(tmp_path: Path) -> None:
    made = toy_series(20)
    series.write(made, tmp_path / "one.csv.gz")
    series.write(made, tmp_path / "two.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()
    assert same(series.read(tmp_path / "one.csv.gz"), made)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one.csv.gz", "two.csv.gz"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"schema": 2', '"schema": 1'),
        ('"window_s": 4', '"window_s": 5'),
        ('"window_s": 4', '"window_s": "x"'),
        ('"reserve_tokens": 5', '"reserve_tokens": null'),
        ("batch,prompt", "prompt,batch"),
        ("\n0,", "\n-1,"),
        ("\n0,", "\n0.5,"),
        ("\n0,", "\nnan,"),
        ("\n0,", "\n99999999999999999999,"),
        ("\n0,", "\n0,0,"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "series.csv.gz"
    made = toy_series(20)
    assert 0 in made.batch
    series.write(made, path)
    header, lines = headed.unpack(path.read_bytes())
    whole = "\n".join([json.dumps(header, sort_keys=True), *lines])
    assert old in whole
    first, _, rest = whole.replace(old, new, 1).partition("\n")
    path.write_bytes(headed.pack(json.loads(first), rest.split("\n")))
    with pytest.raises(InvalidTrace, match=r"no series that can be read|integers >= 0"):
        series.read(path)


@given(st.integers(1, 40), st.integers(0, 99), st.booleans())
def test_what_is_written_is_read(rows: int, seed: int, thinned: bool) -> None:
    made = toy_series(rows, seed)
    if thinned:
        made = made.without_requests(np.arange(rows // 2))
    with TemporaryDirectory() as folder:
        for name in ("one.csv.gz", "one.series"):
            series.write(made, Path(folder) / name)
            assert same(series.read(Path(folder) / name), made)


@given(st.integers(1, 3000), st.sampled_from(["one.csv.gz", "one.series"]))
def test_what_cannot_be_read_is_not_written(most_bytes: int, name: str) -> None:
    """One limit: whatever `write` leaves behind `read` takes, and it leaves what is small enough."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SERIES", most_bytes)
        patch.setattr(limits, "PACKED", most_bytes)
        path = Path(folder) / name
        with suppress(InvalidTrace):
            series.write(toy_series(20), path)
        assert not path.exists() or same(series.read(path), toy_series(20))


BOTH, TEXT, OF_BLOCKS = ("one.csv.gz", "one.series"), ("one.csv.gz",), ("one.series",)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"requests": np.array(["1/2,"], dtype=object)}, TEXT),
        ({"requests": np.array(["1/2\n"], dtype=object)}, TEXT),
        ({"requests": np.array(["1/é"], dtype=object)}, OF_BLOCKS),
        ({"origin": {"share": float("nan")}}, BOTH),
        ({"origin": {"path": Path("x")}}, BOTH),
        ({"window_s": 1000, "tenant_tokens": np.zeros((1, 1000), dtype=np.int64)}, BOTH),
    ],
)
def test_a_series_that_a_file_cannot_hold_is_refused(
    tmp_path: Path, change: dict[str, Any], names: tuple[str, ...]
) -> None:
    one = built(trace((0.0, 1, 2)), stop_s=4.0).part(np.array([1]))
    for name in names:
        with pytest.raises(InvalidTrace, match="is not written"):
            series.write(replace(one, **change), tmp_path / name)
        assert not (tmp_path / name).exists()


def test_a_damaged_file_of_blocks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.series"
    series.write(toy_series(20), path)
    whole = path.read_bytes()
    assert whole == whole.replace(b'"rows": 20', b'"rows": 20')
    for wrong in (
        b"",
        b"# ",
        whole[:-1],
        whole + b"1",
        whole[:200],
        whole.replace(b'"rows": 20', b'"rows": 21'),
        whole.replace(b'"rows": 20', b'"rows": -1'),
        whole.replace(b'"schema": 2', b'"schema": 1'),
        whole.replace(b'"window_s": 4', b'"window_s": 3'),
        b"# [1]" + whole[whole.index(b"\n") :],
        b"# " + b"[" * 100_000 + whole[whole.index(b"\n") :],
    ):
        path.write_bytes(wrong)
        with pytest.raises(InvalidTrace, match="no series that can be read"):
            series.read(path)


@pytest.mark.parametrize(
    "name", ["month.series", pytest.param("month.csv.gz", marks=pytest.mark.slow)]
)
def test_a_month_in_windows_of_two_seconds_is_written_and_read(tmp_path: Path, name: str) -> None:
    rows = 30 * 86_400 // 2
    demand = np.arange(rows, dtype=np.int64) % 97
    told = np.array([series.NOT_KEPT], dtype=object).repeat(rows)
    held = np.stack([demand * 500, demand * 300], axis=1)
    made = Series(2, 5, demand, demand * 9, demand, demand, held, told, {})
    series.write(made, tmp_path / name)
    assert same(series.read(tmp_path / name), made)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x1f\x8b"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "series.csv.gz").write_bytes(content)
    with pytest.raises(InvalidTrace, match="no series that can be read"):
        series.read(tmp_path / "series.csv.gz")


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidTrace, match="rapgym scenarios build"):
        series.read(tmp_path / "series.csv.gz")


@pytest.mark.parametrize(
    "change",
    [
        {"batch": np.zeros(3, dtype=np.int64)},
        {"prompt_tokens": np.full(20, -1)},
        {"prompt_tokens": np.zeros(20)},
        {"output_tokens": np.full(20, 99)},
        {"window_s": 3},
        {"requests": np.full(20, "", dtype=object)},
        {"requests": np.full(3, series.NOT_KEPT, dtype=object)},
    ],
)
def test_columns_that_contradict_each_other_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidTrace):
        replace(toy_series(20), **change)


@pytest.mark.parametrize("story", COMMITTED, ids=lambda story: story.name)
def test_the_committed_series_are_of_their_scenarios(story: Scenario) -> None:
    found = worlds.workload(story)
    assert found.window_s == story.window_s
    assert found.origin["pool_tokens"] == story.pool_tokens
    if isinstance(story.tenant, Recorded):
        assert found.origin["tenant_unit_bytes"] == series.UNIT_BYTES
        card_units = story.card_gib * GIB / series.UNIT_BYTES
        assert (found.tenant_tokens < card_units).all(), "others never had more than there is"
    else:
        assert (found.tenant_tokens <= story.pool_tokens).all(), "never above the pool"
    assert found.origin["sources"]
    assert all(
        source["attribution"] and source["licence"] for source in found.origin["sources"].values()
    )


@pytest.mark.parametrize("story", COMMITTED, ids=lambda story: story.name)
def test_the_committed_series_keep_every_single_request(story: Scenario) -> None:
    whole = worlds.workload(story)
    assert len(whole.single_requests().prompt_tokens) == whole.batch.sum() > 0


@pytest.mark.parametrize("name", sorted(path.name for path in places.TRACES.glob("*.csv.gz")))
def test_no_committed_series_is_large(name: str) -> None:
    assert (places.TRACES / name).stat().st_size < 8 << 20


@pytest.mark.parametrize("story", COMMITTED, ids=lambda story: story.name)
@pytest.mark.usefixtures("raw_data")
def test_the_committed_series_equal_what_the_raw_files_give(story: Scenario) -> None:
    made, committed = workloads.build(story), worlds.workload(story)
    assert same(made, committed)
