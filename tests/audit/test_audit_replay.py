"""What a log proves: no edit, no cut and no forged record goes unseen, and no file does harm."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_logs import CONTEXT, faults, forged, found, serve, written
from hypothesis import given, settings
from hypothesis import strategies as st

from rapgym.audit import chain
from rapgym.audit import read as audit_read
from rapgym.audit import replay as audit_replay
from rapgym.audit import sentence as audit_sentence
from rapgym.audit.context import AuditContext
from rapgym.audit.log import AuditLog
from rapgym.audit.read import Line
from rapgym.audit.summary import Chosen, Log, summary
from rapgym.errors import DataUnavailable, InvalidResult, InvalidSpec, RapgymError
from rapgym.files import limits


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty and some decisions, by two writers."""
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    written(path, rows=6)
    with AuditLog(path) as more:
        serve(more, rows=6, seed=1)
    return path


@pytest.fixture
def changed(log: Path, tmp_path: Path) -> Any:
    """Writes lines to a file of its own, and gives its path."""

    def write(lines: list[bytes]) -> Path:
        path = tmp_path / "changed.jsonl"
        path.write_bytes(b"".join(lines))
        return path

    return write


def lines(log: Path) -> list[bytes]:
    return log.read_bytes().splitlines(keepends=True)


def head(log: Path) -> chain.Head:
    return found(log)[-1].head


def test_a_log_holds_and_replays(log: Path) -> None:
    verified = audit_replay.verified(log, head(log))
    assert (verified.sentences, verified.holds) == ([], True)
    assert verified.decisions == verified.head.decisions == head(log).decisions > 36
    sources = {line.fields["source"] for line in found(log) if line.kind == "decision"}
    assert sources == {"policy", "fallback", "watchdog", "override", "emergency"}
    reasons = {line.fields["reason"] for line in found(log) if line.kind == "decision"}
    assert reasons >= {"policy", "repaired", "refused", "emergency"}


# The chain


@given(data=st.data())
def test_every_flipped_bit_is_found(log: Path, data: st.DataObject, tmp_path_factory: Any) -> None:
    content = bytearray(log.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.jsonl"
    path.write_bytes(content)
    try:
        assert not audit_replay.verified(path, head(log)).holds
    except InvalidResult:
        assert place < 7, "only a damaged beginning makes it no log"


@pytest.mark.parametrize("gone", [0, 1, 2, 9, 30])
def test_a_removed_line_is_named(log: Path, changed: Any, gone: int) -> None:
    every = lines(log)
    path = changed(every[:gone] + every[gone + 1 :])
    assert f"line {gone} is missing before line {gone + 1}" in faults(path)
    left = [each for each in audit_read.lines(path) if isinstance(each, Line)]
    assert len(left) == len(every) - 1, "the rest still verifies"


def test_a_removed_stretch_is_named(log: Path, changed: Any) -> None:
    every = lines(log)
    assert faults(changed(every[:5] + every[12:])) == ["lines 5 to 11 are missing before line 12"]


def test_a_moved_line_is_named(log: Path, changed: Any) -> None:
    every = lines(log)
    every[7], every[8] = every[8], every[7]
    told = faults(changed(every))
    assert "line 7 stands after line 8: it was moved or doubled" in told
    doubled = faults(changed([*lines(log)[:8], *lines(log)[7:]]))
    assert doubled == ["line 7 stands after line 7: it was moved or doubled"]


def test_an_edited_line_is_named(log: Path, changed: Any) -> None:
    every = lines(log)
    every[6] = every[6].replace(b'"second":0', b'"second":1')
    (told,) = faults(changed(every))
    assert told.startswith("line 7 of the file was changed")
    assert "calls itself line 6" in told


def test_an_edited_line_with_a_new_sha256_shows_in_the_next(log: Path, changed: Any) -> None:
    every = lines(log)
    before = found(log)[5].head
    members = every[6].decode().partition(f'"previous":"{before.sha256}",')[2][: -chain.TAIL - 1]
    told = json.loads("{" + members + "}") | {"late_us": 7}
    every[6], _ = chain.line(before, json.dumps(told, separators=(",", ":"))[1:-1], 1)
    assert faults(changed(every)) == [
        "line 7 does not follow the line before it: one of the two was replaced"
    ]


def test_a_line_put_in_between_is_named(log: Path, changed: Any) -> None:
    every = lines(log)
    (told,) = faults(changed([*every[:5], b"a note\n", *every[5:]]))
    assert told == "line 6 of the file cannot be read: it stands after line 4"
    fifth, _ = chain.line(found(log)[4].head, '"kind":"close","time_us":1')
    assert len(faults(changed([*every[:5], b"a note\n", fifth, *every[6:]]))) == 2


def test_a_line_of_another_log_does_not_fit(log: Path, changed: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    written(other, rows=6)
    every = lines(log)
    every[9] = lines(other)[9]
    assert len(faults(changed(every))) == 2


def test_a_removed_tail_shows_against_a_kept_head_and_only_so(log: Path, changed: Any) -> None:
    every, kept = lines(log), head(log)
    path = changed(every[:-3])
    assert faults(path) == []
    last = len(every) - 1
    assert faults(path, kept) == [
        f"lines {last - 2} to {last} are gone from the end: a head was kept"
    ]
    assert not audit_replay.verified(path, kept).holds


def test_a_log_written_anew_shows_against_a_kept_head_and_only_so(
    log: Path, tmp_path: Path
) -> None:
    anew = tmp_path / "anew.jsonl"
    forged(log, anew, {4: {"lane": 77}})
    assert audit_replay.verified(anew).holds
    assert faults(anew, head(log)) == [f"line {head(log).seq} is not the one whose sha256 was kept"]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_log_cut_at_any_byte_loses_what_was_cut_and_no_more(
    log: Path, changed: Any, step: int
) -> None:
    content, every, kept = log.read_bytes(), lines(log), head(log)
    ends = np.cumsum([len(line) for line in every])
    places = [*range(1, 400, 7), *range(400 + step, len(content), 997), *(ends - 1), *ends[:-1]]
    for place in places[step::3]:
        path = changed([content[:place]])
        whole = int((ends <= place).sum())
        if place < 7:
            with pytest.raises(InvalidResult):
                faults(path)
            continue
        told = faults(path, kept)
        left = [each for each in audit_read.lines(path) if isinstance(each, Line)]
        assert [line.head.seq for line in left] == list(range(whole))
        cut = place not in (0, *ends)
        assert len(told) == 1 + cut
        if cut:
            assert f"bytes are left of line {whole}; it is gone" in told[0]
        gone = f"lines {whole} to {kept.seq} are" if whole < kept.seq else f"line {whole} is"
        assert told[-1] == f"{gone} gone from the end: a head was kept"


def test_a_log_that_follows_another_line_is_no_beginning(log: Path, tmp_path: Path) -> None:
    """The end of a longer log, numbered anew: its chain holds, but for where it begins."""
    out = tmp_path / "end.jsonl"
    forged(log, out, {}, chain.Head(-1, "1" * 64, 0))
    (told,) = faults(out)
    assert told.startswith("line 1 of the file is no first line of a log")
    assert not audit_replay.verified(out).holds


def test_bytes_cut_out_of_the_middle_cost_the_lines_that_they_were_of(
    log: Path, changed: Any
) -> None:
    content, every = log.read_bytes(), lines(log)
    start = sum(map(len, every[:5])) + 10
    path = changed([content[:start] + content[start + len(every[5]) + len(every[6]) :]])
    left = [each.head.seq for each in audit_read.lines(path) if isinstance(each, Line)]
    assert left == [*range(5), *range(8, len(every))]
    assert "lines 5 to 7 are missing or damaged before line 8" in faults(path)


# Replay from the log alone

FORGERIES: dict[str, tuple[Any, str]] = {
    "limit_bytes": (lambda told: told["limit_bytes"] + 1, "budget does not follow"),
    "budget_bytes": (lambda told: told["budget_bytes"] - 1, "budget does not follow"),
    "prompt_tokens": (lambda told: told["prompt_tokens"] + 9, "it uses other bytes"),
    "used_bytes": (lambda told: told["used_bytes"] + 1, "it uses other bytes"),
    "kept": (lambda told: f"{int(told['kept'], 16) ^ 0x04:02x}", "the shield keeps another set"),
    "refused": (lambda told: not told["refused"], "decides otherwise whether it is refused"),
    "reason": (lambda told: "watchdog", "gives another reason"),
    "source": (lambda told: "override", "gives another reason"),
    "second": (lambda told: 2, "its source is policy in second 2"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_record_does_not_replay_though_its_chain_holds(
    log: Path, tmp_path: Path, name: str
) -> None:
    change, says = FORGERIES[name]
    number, told = next(
        (line.head.seq, line.fields)
        for line in found(log)
        if line.kind == "decision"
        and line.fields["reason"] == "policy"
        and line.fields["prompt_tokens"]
    )
    out = tmp_path / "forged.jsonl"
    forged(log, out, {number: {name: change(told)}})
    assert faults(out) == []
    verified = audit_replay.verified(out)
    assert verified.differing == 1
    assert says in verified.sentences[0]
    assert f"decision {told['decision']} (line {number})" in verified.sentences[0]


def test_another_proposal_shows_where_it_decides(log: Path, tmp_path: Path) -> None:
    number, told = next(
        (line.head.seq, line.fields)
        for line in found(log)
        if line.kind == "decision" and line.fields["reason"] == "repaired"
    )
    out = tmp_path / "forged.jsonl"
    forged(log, out, {number: {"proposal": told["kept"]}})
    (sentence,) = audit_replay.verified(out).sentences
    assert "the shield gives another reason" in sentence


@pytest.mark.parametrize(
    ("ruled", "holds"),
    [
        ({"readable": True, "late_us": 0, "pinned": False}, True),
        ({"readable": True, "late_us": 900, "pinned": False}, False),
        ({"readable": False, "late_us": 0, "pinned": False}, False),
        ({"readable": True, "late_us": 0, "pinned": True}, False),
        ({"readable": True, "late_us": 0, "pinned": False, "watchdog": "reference"}, False),
        ({"readable": True, "late_us": 0, "pinned": False, "watchdog": "policy"}, True),
        ({"readable": True, "late_us": None, "pinned": True}, True),  # not all is known
    ],
)
def test_whose_proposal_reaches_the_shield_follows_from_the_record(
    log: Path, tmp_path: Path, ruled: dict[str, Any], holds: bool
) -> None:
    number, told = next(
        (line.head.seq, line.fields)
        for line in found(log)
        if line.kind == "decision" and line.fields["reason"] == "policy"
    )
    out = tmp_path / "forged.jsonl"
    forged(log, out, {number: {"own_proposal": told["proposal"]} | ruled})
    verified = audit_replay.verified(out)
    assert verified.holds == holds
    if not holds:
        assert "another proposal should have reached the shield" in verified.sentences[0]


def test_a_decision_of_another_model_or_without_its_context_is_named(
    log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "forged.jsonl"
    forged(log, out, {3: {"kept": "ffff"}, 4: {"context": "0" * 16}, 5: {"nll": "cheap"}})
    verified = audit_replay.verified(out)
    assert verified.differing == 3
    told = "; ".join(verified.sentences)
    for part in ("'ffff' is no key of 6 blocks", "line 4: the log lacks its context",
                 "line 5 holds what no decision has"):  # fmt: skip
        assert part in told


@pytest.mark.parametrize(
    "name",
    ["batch", "prompt_tokens", "reserved_tokens", "longest_tokens", "output_tokens", "row",
     "limit_row", "lane", "late_us", "measured_bytes"],
)  # fmt: skip
def test_less_than_nothing_is_in_no_decision(log: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "forged.jsonl"
    forged(log, out, {3: {name: -1}})
    assert audit_replay.verified(out).sentences == [f"line 3 holds what no decision has: {name}"]


def test_a_context_that_was_changed_is_not_believed(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "forged.jsonl"
    forged(log, out, {1: {"ceiling": 9.0}})
    assert "states a context of another id" in audit_replay.verified(out).sentences[0]


# Hostile files


def hostile(told: dict[str, Any]) -> bytes:
    """A line whose chain is right, whatever it says."""
    members = json.dumps(told, separators=(",", ":"))[1:-1]
    return chain.line(chain.START, members)[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95",
        b"SQLite format 3\x00",
        b'{"seq":',
        b'{"seq":0}\n',
        b'{"seq":0,' + b"[" * 100_000 + b"\n",
        b'{"seq":' + b"9" * 100_000 + b"}\n",
        b'{"seq":0,"x":NaN}\n',
        b'{"seq":0,"x":"\xff\xfe"}\n',
        hostile({"kind": "open", "time_us": 0, "format": 99}),
        hostile({"kind": "open", "time_us": 0, "format": {"a": 1}}),
        hostile({"kind": "decision", "time_us": 0}),
        hostile({"kind": "context", "time_us": 1, "context": []}),
        hostile({"kind": "gap", "time_us": 1, "decisions": "many"}),
        hostile({"kind": ["x"], "time_us": 1}),
    ],
    ids=range(15),
)
def test_no_file_does_more_than_an_error_that_is_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile.jsonl"
    path.write_bytes(content)
    try:
        assert not audit_replay.verified(path).holds
        assert summary(Log(path), Chosen())["faults"]
    except InvalidResult as error:
        assert str(path) in str(error)  # noqa: PT017  # either is right


def test_a_name_that_stands_twice_is_refused(log: Path, changed: Any) -> None:
    every = lines(log)
    before = found(log)[2].head
    members = '"kind":"gap","time_us":5,"decisions":1,"decisions":2'
    every[3] = chain.line(before, members)[0]
    assert "line 4 of the file cannot be read" in faults(changed(every))[0]


def test_an_endless_line_is_read_past(
    log: Path, changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AUDIT_LINE", 20_000)
    every = lines(log)
    path = changed([*every[:4], b"x" * 90_000 + b"\n", *every[5:]])
    told = faults(path)
    assert "a line longer than 20000 bytes" in told[0]
    left = [each.head.seq for each in audit_read.lines(path) if isinstance(each, Line)]
    assert left == [*range(4), *range(5, len(every))]


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(1 << 70), 1 << 70), st.text(max_size=5),
    st.floats(), st.lists(st.integers(0, 9), max_size=3), st.just("ff"), st.just({}),
)  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "log.jsonl"
    written(path, rows=2)
    return path


@settings(max_examples=100)
@given(data=st.data())
def test_whatever_a_well_chained_line_says_it_is_replayed_or_refused(
    small: Path, data: st.DataObject, tmp_path_factory: Any
) -> None:
    number = data.draw(st.integers(1, 6))
    told = json.loads(small.read_bytes().splitlines()[number])
    names = sorted(told.keys() - {"seq", "decision", "previous", "sha256"})
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    change = {name: data.draw(JUNK) for name in chosen}
    out = tmp_path_factory.getbasetemp() / "junk.jsonl"
    forged(small, out, {number: change})
    audit_replay.verified(out)
    read = Log(out)
    for record in read.records():
        try:
            sentence = audit_sentence.explained(read.context(record), record).sentence
        except RapgymError:
            continue
        assert sentence.isprintable()


def test_a_log_is_read_in_little_memory(tmp_path: Path) -> None:
    """Reading holds a line at a time: what is left afterwards does not grow with the log."""
    import tracemalloc

    peaks = []
    for rows in (40, 160):
        path = tmp_path / f"{rows}.jsonl"
        written(path, rows=rows, lanes=4)
        tracemalloc.start()
        for _ in audit_read.lines(path):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="no audit log at"):
        audit_replay.verified(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "change",
    [
        {"ceiling": float("nan")},
        {"policy": ""},
        {"policy": "a\x1b[2J"},
        {"table_sha256": "short"},
        {"order": np.array([2, 2])},
        {"order": np.array([2, 6])},
        {"grid_nll": np.array([0.5])},
        {"window_s": 0},
        {"footprint": replace(CONTEXT.footprint, layers=1 << 40)},
        {"footprint": replace(CONTEXT.footprint, model_kv_token_bytes=-1)},
    ],
    ids=str,
)
def test_contexts_that_cannot_be_do_not_exist(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        replace(CONTEXT, **change)


def test_a_context_comes_back_as_it_was(log: Path) -> None:
    from rapgym.audit import context as audit_context
    from rapgym.audit import entry as audit_entry

    (line, *_) = [line for line in found(log) if line.kind == "context"]
    context_id, context = audit_entry.context_of(line)
    assert context_id == CONTEXT.id == context.id
    assert isinstance(context, AuditContext)
    assert context.as_json() == CONTEXT.as_json()
    assert (context.grid_kept == CONTEXT.grid_kept).all()
    assert (context.floor == CONTEXT.floor).all()
    assert audit_context.of_json(CONTEXT.as_json()).footprint == CONTEXT.footprint
