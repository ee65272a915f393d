"""Answers that are kept aside: a stopped run goes on, and takes nothing of another basis."""

import json
from functools import partial
from pathlib import Path

from rapgym.jobs import kept

ASKED: list[int] = []


def asked(number: int) -> int:
    ASKED.append(number)
    return number * number


def answers(work: Path, numbers: list[int], code: str = "a") -> dict[int, tuple[int, bool]]:
    """By the call's place: the answer, and whether an earlier run left it."""
    ASKED.clear()
    calls = [partial(asked, number) for number in numbers]
    bases = [{"number": number, "code": code} for number in numbers]
    return {i: (answer, before) for i, answer, before in kept.results(calls, bases, work, 1)}


def test_what_was_kept_is_not_asked_for_again(tmp_path: Path) -> None:
    work = tmp_path / "new folder" / "a.work.jsonl"
    assert answers(work, [3, 4]) == {0: (9, False), 1: (16, False)}
    assert answers(work, [5, 4, 3]) == {0: (25, False), 1: (16, True), 2: (9, True)}
    assert ASKED == [5]


def test_of_another_basis_nothing_is_taken(tmp_path: Path) -> None:
    work = tmp_path / "a.work.jsonl"
    answers(work, [3])
    assert answers(work, [3], "b") == {0: (9, False)}
    assert answers(work, [3], "a") == {0: (9, True)}, "both are kept"


def test_what_was_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    work = tmp_path / "a.work.jsonl"
    answers(work, [3, 4])
    work.write_bytes(work.read_bytes()[:-4] + b"\xff")
    assert answers(work, [3, 4]) == {0: (9, True), 1: (16, False)}
    assert answers(work, [3, 4]) == {0: (9, True), 1: (16, True)}, "a line of its own again"


def test_answers_are_told_and_read_as_asked(tmp_path: Path) -> None:
    work = tmp_path / "a.work.jsonl"

    def all_of(least: int) -> list[tuple[int, Path, bool]]:
        def read(told: str) -> Path:
            if len(told) < least:
                raise ValueError("too short")
            return Path(told)

        return [*kept.results([lambda: Path("b")], [1], work, 1, told=str, read=read)]

    assert all_of(1) == [(0, Path("b"), False)]
    assert [json.loads(line) for line in work.read_text().splitlines() if line] == [
        {"basis": 1, "entry": "b"}
    ]
    assert all_of(1) == [(0, Path("b"), True)]
    assert all_of(2) == [(0, Path("b"), False)], "what cannot be read is asked for again"
