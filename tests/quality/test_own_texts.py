"""Text of one's own: names, halves, the rule against overlap, and `rapgym measure --text`."""

import hashlib
import json
import lzma
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapgym.errors import DataUnavailable, InvalidSpec
from rapgym.quality import texts as quality_texts
from rapgym.quality.texts import SHARED, common_stretch, halves, named


def words(seed: str, count: int = 600) -> str:
    """Made-up prose of which no other seed holds a stretch."""
    rng = random.Random(seed)
    return "\n".join(
        " ".join("".join(rng.choices("abcdefgh", k=rng.randint(2, 8))) for _ in range(12))
        for _ in range(count // 12)
    )


@given(text=st.text(alphabet="ab \n", max_size=200))
@settings(deadline=None)
def test_halves_are_the_whole_text_cut_at_a_line_near_its_middle(text: str) -> None:
    calib, test = halves(text)
    assert calib + test == text
    inside = [place + 1 for place, letter in enumerate(text) if letter == "\n"]
    inside = [cut for cut in inside if cut < len(text)]
    if inside:
        nearest = min(abs(cut - len(text) // 2) for cut in inside)
        assert abs(len(calib) - len(text) // 2) == nearest
    else:
        assert len(calib) == len(text) // 2


@given(place=st.integers(0, 2000), length=st.sampled_from([SHARED - 1, SHARED, SHARED + 9]))
@settings(deadline=None, max_examples=25)
def test_a_stretch_in_both_texts_is_found_from_so_many_characters_on(
    place: int, length: int
) -> None:
    one, other = " ".join(words("one").split()), " ".join(words("other").split())
    copied = one[place : place + length]
    mixed = other[:999] + "#" + copied + "#" + other[999:]
    found = common_stretch(one, mixed)
    # Beside the copy stand characters that `one` lacks, so that it is no longer than meant.
    assert found == (copied[:SHARED] if length >= SHARED else "")


def test_white_space_is_no_difference_and_short_texts_share_nothing() -> None:
    text = words("a")
    assert common_stretch(text, text.replace(" ", "\n\n  ")) != ""
    assert common_stretch("short", "short") == ""
    assert common_stretch("", text) == ""


def test_texts_are_read_split_and_named_by_what_they_hold(tmp_path: Path) -> None:
    whole, calib, test = words("whole"), words("calib"), words("test")
    (tmp_path / "whole.txt").write_text(whole)
    (tmp_path / "calib.txt.xz").write_bytes(lzma.compress(calib.encode()))
    (tmp_path / "test.txt").write_text(test)
    texts = named([
        f"mail={tmp_path / 'whole.txt'}",
        f"law.test={tmp_path / 'test.txt'}",
        f"law.calib={tmp_path / 'calib.txt.xz'}",
    ])  # fmt: skip
    assert texts.domains == ("mail", "law")
    assert texts.read("mail", "calib") + texts.read("mail", "test") == whole
    assert (texts.read("law", "calib"), texts.read("law", "test")) == (calib, test)
    assert texts.sha256("law", "test") == hashlib.sha256(test.encode()).hexdigest()


def test_texts_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    file, other, binary = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"
    file.write_text(words("a"))
    other.write_text(words("b") + words("a")[100:600])
    binary.write_bytes(b"\xff\xfe")
    refused = [
        ([f"Mail={file}"], "write NAME=FILE"),
        (["mail"], "write NAME=FILE"),
        ([f"mail.calib={file}"], "its test part is missing"),
        ([f"mail={file}", f"mail.test={file}"], "mail.test is given twice"),
        ([f"mail.calib={file}", f"mail.test={other}"], r"mail.calib and mail.test overlap"),
        # Of any two domains: calibration text of one is the other's as well.
        ([f"mail={file}", f"law={other}"], r"mail.calib and law.test overlap"),
    ]
    for arguments, message in refused:
        with pytest.raises(InvalidSpec, match=message):
            named(arguments)
    for path, message in ((tmp_path / "none", "cannot be read"), (binary, "no UTF-8 text")):
        with pytest.raises(DataUnavailable, match=message):
            named([f"mail={path}"])


# The command


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    pytest.importorskip("torch")
    tiny_llama = pytest.importorskip("tiny_llama")
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAPGYM_DATA", raising=False)
    (tmp_path / "mail.txt").write_text(words("mail", 1200))
    folder = tiny_llama.save(tmp_path / "tiny")
    text = ["--text", f"mail={tmp_path / 'mail.txt'}"]
    return ["measure", str(folder), "--seq", "32", "--dtype", "float32", "--quiet", *text]


def test_a_design_is_measured_on_own_text_alone(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rapgym.cli import main

    assert main([*tiny, "--design", "single", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {(e["design"], e["sample"], e["rows"]) for e in printed["spent"]} == {
        ("single", sample, 6) for sample in ("order-0", "calib", "test")
    }
    assert printed["flops"]["share"] > 0
    ledger = tmp_path / "cache" / "measure" / "tiny.work.jsonl"
    origin, *rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    test = quality_texts.named([tiny[-1]]).sha256("mail", "test")
    assert {*origin["texts"]} == {"mail.calib", "mail.test"}
    assert origin["texts"]["mail.test"] == test
    assert {tuple(row["domains"]) for row in rows} == {("mail",)}


def test_a_command_with_minutes_stops_and_goes_on_to_the_end(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from rapgym.cli import main

    said = []
    for _ in range(40):
        assert main([*tiny, "--design", "single", "--minutes", "1e-9"]) == 0
        said.append(capsys.readouterr().out)
        if "stopped" not in said[-1]:
            break
    assert len(said) == 3 * 6 + 1, "a set a run, on each of three samples; then all is there"
    assert "as --minutes asks: 3.3% measured, about" in said[0]
    assert "the same command goes on" in said[0]
    assert "single" in said[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--minutes", "0"], "--minutes is more than 0"),
        (["--seq", "300"], "takes 256 tokens at most"),
        (["--seq", "250", "--design", "single"], "too short for 8 sequences"),
        (["--design", "choice"], "leave --text away"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    from rapgym.cli import main

    (tmp_path / "mail.txt").write_text(words("mail", 240))
    assert main([*tiny, *more]) == 2
    assert message in capsys.readouterr().err
