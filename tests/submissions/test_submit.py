"""`rapgym submit`: what is packed, and what is not."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_world

from rapgym import cli
from rapgym.bench import results, scoreboard
from rapgym.bench import run as bench_run
from rapgym.errors import InvalidPolicy, InvalidResult, InvalidSpec
from rapgym.guard.foreign import Terms
from rapgym.policies import registry
from rapgym.scenarios.story import Scenario
from rapgym.submissions import pack, stored, submission
from rapgym.submissions.header import Header, Stated

STATED = Stated("mine", ("A. Body",), "https://example.org/mine", "MIT")
MODULE = """
import numpy as np
from own.more import KEPT


class Mine:
    def reset(self, batch, briefing):
        self.blocks = briefing.layout.blocks

    def propose(self, observation, rng):
        return np.full((len(observation), self.blocks), KEPT)
"""


@pytest.fixture(scope="module")
def folder(one_pairing: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a package, a module that imports it, and results of both."""
    path: Path = tmp_path_factory.mktemp("users")
    (path / "own").mkdir()
    (path / "own" / "__init__.py").write_text("")
    (path / "own" / "more.py").write_text("KEPT = True\n")
    (path / "own" / "mine.py").write_text(MODULE)
    (path / "single.py").write_text(MODULE)
    (path / "notes.txt").write_text("not asked for")
    tuned = {one_pairing.id: toy_world.tuned(one_pairing, {"kept": "fc"})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "tuned", lambda: {"static-best-repaired": tuned})
        bench_run.run(
            [one_pairing], ["own.mine:Mine", "single:Mine", "keep-all"], path / "b.csv.gz",
            summary=scoreboard.summed_up, quiet=True, terms=Terms(folders=(str(path),)),
        )  # fmt: skip
    return path


@pytest.fixture
def submit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Exit code and words of `rapgym submit`, typed in the user's folder."""
    monkeypatch.chdir(folder)

    def run(*options: str, policy: str = "own.mine:Mine", licence: str = "MIT") -> tuple[int, str]:
        stated = ["--author", "A. Body", "--link", STATED.link, "--licence", licence]
        named = ["--policy", policy, "--name", "mine"]
        code = cli.main(["submit", "b.csv.gz", *named, *stated, *options])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


def test_a_package_is_packed_whole_and_holds(
    submit: Callable[..., tuple[int, str]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = submit("--training-hours", "2.5", "--machine", "1 H200")
    assert code == 0, told
    assert "check it with: rapgym verify mine.zip --again" in told
    with zipfile.ZipFile(folder / "mine.zip") as whole:
        assert set(whole.namelist()) == {
            "submission.json", "rows.csv.xz", "policy/own/__init__.py", "policy/own/mine.py",
            "policy/own/more.py",
        }  # fmt: skip
    sent = submission.read(folder / "mine.zip")
    assert sent.header.stated.training_hours == 2.5
    assert {cell.about.policy for cell in sent.rows.cells} == {"mine"}
    assert str(folder) not in sent.header.text()
    assert submit()[0] == 2, "nothing is overwritten unasked"
    assert cli.main(["verify", "mine.zip", "--again", "--jobs", "1", "--json"]) == 0
    assert '"differences": []' in capsys.readouterr().out


def test_what_it_imports_is_included_or_missed_at_once(
    submit: Callable[..., tuple[int, str]], folder: Path
) -> None:
    code, told = submit("--out", "single.zip", policy="single:Mine")
    assert code == 2
    assert "No module named 'own'" in told
    assert not (folder / "single.zip").exists()
    code, told = submit("--out", "single.zip", "--include", "own", policy="single:Mine")
    assert code == 0, told
    assert "policy/own/more.py" in stored.read(folder / "single.zip")


def test_a_policy_that_has_changed_since_its_bench_is_not_packed(
    submit: Callable[..., tuple[int, str]], folder: Path
) -> None:
    more = folder / "own" / "more.py"
    more.write_text("KEPT = False\n")
    try:
        code, told = submit("--out", "changed.zip")
        assert code == 1
        assert "this would be refused: mine on single-v0 proposes something else" in told
        assert submit("--out", "changed.zip", "--quick")[0] == 0, "its rows replay"
    finally:
        more.write_text("KEPT = True\n")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"policy": "keep-all"}, 2, "one of rapgym's own"),
        ({"policy": "other:Mine"}, 1, "no rows of other:Mine are among these results"),
        ({"licence": ""}, 2, "licence can be an SPDX"),
        ({"include": "nowhere"}, 2, "there is no such file"),
        ({"include": "/etc/hostname"}, 2, "in the folder of the policy alone"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    options: dict[str, str], code: int, words: str, submit: Callable[..., tuple[int, str]]
) -> None:
    more = ["--include", options.pop("include")] if "include" in options else []
    found, told = submit("--out", "none.zip", *more, **options)
    assert (found, words in told) == (code, True), told
    assert not Path("none.zip").exists()


def test_the_same_content_gives_the_same_bytes(folder: Path) -> None:
    found = results.read(folder / "b.csv.gz")
    once, again = (pack.made(found, "own.mine:Mine", STATED, folder).packed() for _ in range(2))
    assert once == again
    sent = pack.made(found, "own.mine:Mine", STATED, folder)
    assert Header.of(sent.header.text().encode()) == sent.header


def test_limits_hold_for_what_is_packed_too(folder: Path) -> None:
    found = results.read(folder / "b.csv.gz")
    (folder / "many").mkdir()
    for number in range(101):
        (folder / "many" / f"{number}.txt").write_text("x")
    with pytest.raises(InvalidSpec, match="at most 100 files"):
        pack.made(found, "own.mine:Mine", STATED, folder, [Path("many")])
    (folder / "a b.txt").write_text("x")
    with pytest.raises(InvalidResult, match="no name of a file in a submission"):
        pack.made(found, "own.mine:Mine", STATED, folder, [Path("a b.txt")]).packed()
    with pytest.raises(InvalidPolicy, match="type the command in the folder"):
        pack.made(found, "own.mine:Mine", STATED, folder / "many")


def test_a_file_that_is_no_submission_goes_the_way_of_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 nothing")
    assert cli.main(["verify", str(tmp_path / "x.zip")]) == 1
    assert "no submission that can be read" in capsys.readouterr().err
    (tmp_path / "x.zip").unlink()
    assert cli.main(["verify", str(tmp_path)]) == 1
    assert "has no submission.json" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "nowhere")]) == 1
    assert "is not there" in capsys.readouterr().err
