"""The toy table, checked by hand: its docstring lists every number that is asserted here."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_table import (
    ALL_SETS,
    FLOOR,
    kept_without,
    toy_columns,
    toy_header,
    toy_nll,
    toy_rows,
    toy_table,
)

from rapgym.errors import DataUnavailable, InvalidTable, UnmeasuredSet, WrongChecksum
from rapgym.files import places
from rapgym.model import blocks
from rapgym.model.shapes import BF16, Format
from rapgym.quality import file as table_file
from rapgym.quality import sets as measured_sets
from rapgym.quality import table as quality_table
from rapgym.quality.file import Rows
from rapgym.quality.header import FormatQuality, Header, Orders
from rapgym.quality.table import QualityTable

ABOVE = [kept for kept in ALL_SETS if kept[FLOOR].all()]
A1, F1, A2, F2 = 2, 3, 4, 5  # block numbers
keys = st.sets(st.sampled_from([blocks.key(kept) for kept in ABOVE if not kept.all()]), max_size=8)


def key(*dropped: int) -> str:
    return blocks.key(kept_without(*dropped))


def test_every_measured_set_is_answered_as_measured() -> None:
    kept = np.array(ABOVE)
    nll, measured = toy_columns().nll(kept)
    assert measured.all()
    assert nll == pytest.approx([toy_nll(k) for k in ABOVE])
    of_test, _ = toy_columns("test").nll(kept)
    assert of_test == pytest.approx(nll + 0.02 * (~kept).sum(axis=1))
    in_books, _ = toy_columns("calib", "books").nll(kept)
    assert in_books == pytest.approx(nll + 0.03 * (~kept).sum(axis=1))


def test_leading_axes_are_kept() -> None:
    columns, kept = toy_columns(), np.array(ABOVE).reshape(2, 2, 4, 6)
    nll, measured = columns.nll(kept)
    assert nll.shape == measured.shape == (2, 2, 4)
    assert nll[1, 0, 2] == columns.nll(kept[1, 0, 2])[0]
    assert columns.nll(kept[:0])[0].shape == (0, 2, 4)


def test_grid_best_sets_and_counts_by_hand() -> None:
    columns = toy_columns()
    by_hand = [[0, 0.2, 0.6], [0.1, 0.3, 0.5], [0.4, 0.4, 0.65]]
    assert columns.at_counts == pytest.approx(np.array(by_hand))
    assert columns.grid_nll == pytest.approx(np.array(by_hand))
    assert columns.grid_measured.all()
    # Not the first of each order: attn2 and ffn2 together cost less than attn1 and ffn1.
    assert (columns.grid_kept[1, 1] == kept_without(A2, F2)).all()
    assert (columns.grid_kept[2, 1] == kept_without(A1, A2, F2)).all()
    assert (columns.grid_kept[2, 2] == FLOOR).all()
    of_test = toy_columns("test")
    assert (of_test.grid_kept == columns.grid_kept).all(), "chosen by calibration columns"
    assert of_test.at_counts[1, 1] == pytest.approx(0.34)


def test_the_grid_is_chosen_by_calibration_columns_even_where_test_text_has_no_row() -> None:
    columns = toy_table({key(A2, F2)}, split="test").test()
    assert (columns.grid_kept[1, 1] == kept_without(A2, F2)).all()
    assert columns.grid_measured.sum() == 8
    assert not columns.grid_measured[1, 1]


def test_orders_singles_importance_and_ceiling_by_hand() -> None:
    columns = toy_columns()
    assert columns.order.tolist() == [A1, F1, A2, F2]
    assert columns.single == pytest.approx([3.0, 2.0, 0.1, 0.2, 0.3, 0.4])
    assert columns.importance[[A1, F1, A2, F2]] == pytest.approx([0.1, 0.25, 0.3, 0.0])
    assert (columns.importance[FLOOR] == 8.0).all(), "more than any other block, and finite"
    assert (columns.floor == FLOOR).all()
    assert columns.ceiling == toy_columns("test").ceiling == pytest.approx(4.0)
    assert toy_columns("calib", "books").ceiling == pytest.approx(3.5)


def test_a_set_below_the_floor_is_refused() -> None:
    with pytest.raises(InvalidTable, match="without ffn0"):
        toy_columns().nll(np.stack([kept_without(), kept_without(1)]))
    with pytest.raises(InvalidTable, match="6 blocks"):
        toy_columns().nll(np.ones(8, dtype=bool))


def test_measured_only_answers_name_what_to_measure() -> None:
    columns = toy_table({key(A2, F2)}).calibration()
    sets = columns.sets
    assert sets.nll[sets.rows(kept_without(A1))] == pytest.approx(0.1)
    assert sets.top1[sets.rows(kept_without())] == 1
    assert sets.kl[sets.rows(kept_without(A1))] == pytest.approx((0.13 + 0.07 + 0.1) / 3)
    assert columns.nll_se(kept_without(A1)) == pytest.approx(0.01 / 3**0.5, abs=1e-6)
    with pytest.raises(UnmeasuredSet, match=f"--kept {key(A2, F2)}"):
        columns.nll_se(np.stack([kept_without(A1), kept_without(A2, F2)]))


def test_an_unmeasured_set_is_predicted_flagged_and_never_better_than_its_counts() -> None:
    columns = toy_table({key(A2, F2)}).calibration()
    nll, measured = columns.nll(np.stack([kept_without(A2, F2), kept_without(A1, F1)]))
    assert measured.tolist() == [False, True]
    assert columns.at_counts[1, 1] == pytest.approx(0.35), "without the row: attn1 and ffn1"
    assert 0.35 <= nll[0] < 1
    assert columns.nll(kept_without(A2, F2))[0] == nll[0], "the same every time"


def test_counts_without_a_row_take_the_largest_of_fewer_drops() -> None:
    lacking = {key(A1, A2, F1), key(A1, A2, F2)}
    table = toy_table(lacking)
    with pytest.raises(InvalidTable, match="joint-order"):
        table.calibration()  # the third prefix of the joint order is gone on calibration text
    columns = toy_table(lacking, split="test").test()
    assert columns.at_counts[2, 1] == pytest.approx(0.44), "two attention blocks"
    assert not columns.grid_measured[2, 1]


@given(keys)
def test_no_answer_is_better_than_the_best_at_its_counts(lacking: set[str]) -> None:
    columns = toy_table(lacking, split="test").test()
    kept = np.array(ABOVE)
    nll, measured = columns.nll(kept)
    counts = blocks.dropped_counts(kept)
    assert (nll >= columns.at_counts[counts[:, 0], counts[:, 1]] - 1e-12).all()
    assert measured.tolist() == [blocks.key(k) not in lacking for k in ABOVE]
    for index in np.ndindex(3, 3):
        assert blocks.dropped_counts(columns.grid_kept[index]).tolist() == list(index)
    # Each by itself, in other company, gets the same answer.
    assert np.array_equal(
        [columns.nll(k)[0] for k in kept], toy_table(lacking, split="test").test().nll(kept)[0]
    )


def test_calibration_columns_hold_no_number_of_the_test_text() -> None:
    rows = toy_rows()
    of_test = np.array(rows.sample) == "test"
    for name in ("nll", "nll_se", "kl", "top1"):
        getattr(rows, name)[of_test] = 0.125 * (1 + np.arange(of_test.sum()))[:, None]
    content = table_file.packed(toy_header(), rows)
    changed = QualityTable("toy", table_file.unpacked(content, "toy"))
    for domain in (None, "books"):
        assert pickle.dumps(changed.calibration(domain)) == pickle.dumps(
            toy_table().calibration(domain)
        )


def test_the_row_with_the_most_tokens_answers() -> None:
    rows, header = toy_rows(), toy_header()
    again = np.flatnonzero(np.array(rows.sample) == "calib")
    both = table_file.Rows(
        kept=np.concatenate([rows.kept[again], rows.kept]),
        sample=("order-0",) * len(again) + rows.sample,
        design=("again",) * len(again) + rows.design,
        **{
            name: np.concatenate([getattr(rows, name)[again] * factor, getattr(rows, name)])
            for name, factor in (
                ("nll_p95", 1),
                ("tokens", 1),
                ("nll", 0.5),
                ("nll_se", 1),
                ("kl", 1),
                ("top1", 1),
            )
        },
    )
    table = QualityTable("toy", table_file.unpacked(table_file.packed(header, both), "toy"))
    assert table.calibration().at_counts == pytest.approx(toy_columns().at_counts)


def test_a_set_judged_only_where_orders_were_found_is_the_last_choice_of_the_grid() -> None:
    rows = toy_rows()
    lucky = rows.sample.index("calib")
    place = next(r for r in range(lucky, len(rows)) if (rows.kept[r] == kept_without(A2, F2)).all())
    sample = list(rows.sample)
    sample[place] = "order-0"
    moved = table_file.Rows(
        rows.kept,
        tuple(sample),
        rows.design,
        rows.nll_p95,
        rows.tokens,
        rows.nll,
        rows.nll_se,
        rows.kl,
        rows.top1,
    )
    content = table_file.packed(toy_header(), moved)
    columns = QualityTable("toy", table_file.unpacked(content, "toy")).calibration()
    assert (columns.grid_kept[1, 1] == kept_without(A1, F1)).all()
    assert columns.at_counts[1, 1] == pytest.approx(0.3), "M is the best measured, wherever"
    assert columns.grid_nll[1, 1] == pytest.approx(0.35)


def test_loading_by_path_checks_what_it_finds(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv.gz"
    sha256 = table_file.write(path, toy_header(), toy_rows())
    table = QualityTable.load(path, sha256)
    assert (table.name, table.model, table.sha256, table.blocks) == ("toy", "toy", sha256, 6)
    with pytest.raises(WrongChecksum, match="another table"):
        QualityTable.load(path, "0" * 64)
    with pytest.raises(DataUnavailable, match="tables list"):
        QualityTable.load("no-such-table")
    assert quality_table.path_of("toy").parent == places.TABLES


def test_designs_that_are_missing_are_named() -> None:
    with pytest.raises(InvalidTable, match="`single`"):
        toy_table({key(F2)}).calibration()
    everything = {blocks.key(kept) for kept in ALL_SETS if not kept.all()}
    with pytest.raises(InvalidTable, match="test text"):
        toy_table(everything, split="test").test()
    with pytest.raises(InvalidTable, match="no domain"):
        toy_table().calibration("news")


# Formats, block influence, and other draws of calibration text


def written(header: Header, rows: Rows | None = None) -> QualityTable:
    content = table_file.packed(header, toy_rows() if rows is None else rows)
    return QualityTable("toy", table_file.unpacked(content, "toy"))


def quality_of(form: Format, sample: str, nll: tuple[float, float, float]) -> FormatQuality:
    same = (0.01,) * 3
    return FormatQuality(form.weights, form.kv, sample, nll, same, same, (0.9,) * 3, 0.5)


def test_a_format_costs_what_was_measured_on_the_largest_sample_of_the_split() -> None:
    int4, int8 = Format("int4", "int8"), Format("int8")
    header = replace(
        toy_header(),
        formats=(
            quality_of(int4, "order-0", (9.0, 9.0, 9.0)),
            quality_of(int4, "calib", (0.1, 0.2, 0.6)),
            quality_of(int4, "test", (0.4, 0.2, 0.3)),
            quality_of(int8, "test", (0.0, 0.01, -0.01)),
        ),
    )
    table = written(header)
    assert table.format_nll(int4, "calib") == pytest.approx(0.3)
    assert table.format_nll(int4, "calib", "wiki") == 0.6
    assert table.format_nll(int4, "test", "books") == 0.4
    assert table.format_nll(BF16, "calib") == table.format_nll(BF16, "test", "wiki") == 0.0
    with pytest.raises(UnmeasuredSet, match="rapgym measure toy --design formats"):
        table.format_nll(int8, "calib")
    with pytest.raises(UnmeasuredSet, match="int8 weights with bf16 KV on test"):
        toy_table().format_nll(int8, "test")
    with pytest.raises(InvalidTable, match="no domain"):
        table.format_nll(int4, "calib", "news")


def test_above_another_model_every_answer_is_dearer_by_what_the_format_costs() -> None:
    columns, kept = toy_table({key(A2, F2)}).calibration(), np.array(ABOVE)
    dearer = columns.above(0.25, 2.0).above(0.25, 2.0)
    nll, measured = dearer.nll(kept)
    assert 0 < measured.sum() < len(kept)
    assert nll == pytest.approx(columns.nll(kept)[0] + 0.5)
    assert dearer.predicted_nll(kept) == pytest.approx(columns.predicted_nll(kept) + 0.5)
    assert dearer.at_counts == pytest.approx(columns.at_counts + 0.5)
    assert dearer.single == pytest.approx(columns.single + 0.5)
    assert dearer.importance.tolist() == columns.importance.tolist(), "a difference of two answers"
    assert dearer.ceiling == 2.0


def test_block_influence_is_the_same_in_both_views_and_missing_from_older_tables() -> None:
    table = written(replace(toy_header(), block_influence=(0.5, 0.25, 0.125)))
    for view in (table.calibration(), table.test("books")):
        assert view.block_influence is not None
        assert view.block_influence.tolist() == [0.5, 0.25, 0.125]
    assert toy_columns().block_influence is None


def two_draws(measured: bool = True) -> QualityTable:
    """The toy table with a second draw, which drops attn0, a block of the floor, and not attn1.

    Its own text says of the prefixes of its joint order attn2 attn0 ffn2 ffn1: .4, 5.5, 5.9, 6.7.
    """
    header, rows = toy_header(), toy_rows()
    again = Orders("order-1", (4, 0), (5, 3), (4, 0, 5, 3))
    text = replace(header.samples[0], name="order-1")
    header = replace(header, samples=(*header.samples, text), orders=(*header.orders, again))
    if not measured:
        return written(header)
    more = np.array([0.4, 5.5, 5.9, 6.7])[:, None].repeat(3, axis=1)
    kept = np.array([kept_without(*again.joint[:k]) for k in range(1, 5)])
    return written(
        header,
        Rows(
            kept=np.concatenate([rows.kept, kept]),
            sample=rows.sample + ("order-1",) * 4,
            design=rows.design + ("joint-order",) * 4,
            nll_p95=np.concatenate([rows.nll_p95, more[:, 0]]),
            tokens=np.concatenate([rows.tokens, np.full((4, 3), 100)]),
            **{
                name: np.concatenate([getattr(rows, name), more])
                for name in ("nll", "nll_se", "kl", "top1")
            },
        ),
    )


def test_another_draw_orders_the_blocks_above_the_floor_and_the_rest_goes_last() -> None:
    table = two_draws()
    drawn, own = table.calibration(draw=1), table.calibration()
    assert drawn.attention_order.tolist() == [A2, A1], "attn0 is of the floor, attn1 was not listed"
    assert drawn.ffn_order.tolist() == [F2, F1]
    assert drawn.order.tolist() == [A2, F2, F1, A1]
    assert (drawn.floor == own.floor).all()
    for a, f in np.ndindex(3, 3):
        crossed = kept_without(*[A2, A1][:a], *[F2, F1][:f])
        assert (drawn.grid_kept[a, f] == crossed).all()
    assert drawn.grid_measured.all()
    kept = np.array(ABOVE)
    assert (drawn.nll(kept)[0] == own.nll(kept)[0]).all(), "what is measured stays"
    assert (drawn.at_counts == own.at_counts).all()


def test_importance_of_another_draw_is_what_its_own_text_says_of_its_order() -> None:
    importance = two_draws().calibration(draw=1).importance
    # Of attn1, which that draw did not drop, the table's columns: 0.65 less 0.50.
    assert importance[[A2, F2, F1, A1]] == pytest.approx([0.4, 0.4, 0.8, 0.15])
    assert importance[FLOOR] == pytest.approx([8.0, 8.0]), "2 C, whatever attn0 cost on the way"
    unmeasured = two_draws(measured=False).calibration(draw=1).importance
    assert unmeasured[[A2, F2, F1, A1]] == pytest.approx([0.3, 0.0, 0.2, 0.15])


def test_the_first_draw_by_its_number_gives_the_crossing_of_its_orders() -> None:
    table = two_draws()
    first, own = table.calibration(draw=0), table.calibration()
    assert (first.order == own.order).all()
    assert (first.importance == own.importance).all()
    assert (first.grid_kept[1, 1] == kept_without(A1, F1)).all()
    assert (own.grid_kept[1, 1] == kept_without(A2, F2)).all(), "the best measured at these counts"
    for number in (-1, 2):
        with pytest.raises(InvalidTable, match="2 draws"):
            table.calibration(draw=number)


def test_the_memo_starts_anew_without_forgetting_what_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = {blocks.key(kept) for kept in ABOVE if 2 <= (~kept).sum() <= 3} - {
        key(A1, F1),
        key(A1, F1, A2),
    }
    columns = toy_table(lacking).calibration()
    wanted = columns.nll(np.array(ABOVE))[0]
    monkeypatch.setattr("rapgym.quality.columns.MEMO_SETS", 2)
    again = toy_table(lacking).calibration()
    for _ in range(3):
        assert np.array_equal(again.nll(np.array(ABOVE))[0], wanted)


def test_columns_are_not_made_of_a_further_draw() -> None:
    names = [sample.name for sample in measured_sets.samples_of(two_draws().header, "calib")]
    first = [sample.name for sample in measured_sets.samples_of(toy_header(), "calib")]
    assert names == first
