"""Ways to send what does not hold: each is refused in a sentence."""

import dataclasses
import io
import json
import os
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world

from rapgym import cli
from rapgym.bench import results, scoreboard
from rapgym.bench import run as bench_run
from rapgym.bench.results import Cell, Results
from rapgym.errors import InvalidResult, RapgymError
from rapgym.files import limits, places
from rapgym.guard import landlock
from rapgym.guard.foreign import Terms
from rapgym.policies import registry
from rapgym.scenarios.story import Scenario
from rapgym.submissions import check, pack, stored, submission
from rapgym.submissions.header import Stated
from rapgym.submissions.stored import HEADER, ROWS

MODULE = "policy/mine.py"
MINE = """
from pathlib import Path

import numpy as np

DROPPED = int(Path(__file__).with_name("dropped.txt").read_text())


class Mine:
    def reset(self, batch, briefing):
        self.blocks = briefing.layout.blocks

    def propose(self, observation, rng):
        kept = np.ones((len(observation), self.blocks), dtype=bool)
        kept[:, DROPPED] = False
        return kept
"""
STATED = Stated("mine", ("A. Body",), "https://example.org/mine", "MIT")
WHO = "mine:Mine"

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("users")
    (path / "mine.py").write_text(MINE)
    (path / "dropped.txt").write_text("5")
    return path


@pytest.fixture(scope="module")
def benched(one_pairing: Scenario, folder: Path) -> Iterator[Results]:
    tuned = {one_pairing.id: toy_world.tuned(one_pairing, {"kept": "fc"})}
    terms = Terms(folders=(str(folder),), reads=(str(folder / "dropped.txt"),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "tuned", lambda: {"static-best-repaired": tuned})
        bench_run.run(
            [one_pairing], [WHO], folder / "b.csv.gz", seeds=(0, 1), summary=scoreboard.summed_up,
            quiet=True, terms=terms,
        )  # fmt: skip
        yield results.read(folder / "b.csv.gz")


@pytest.fixture(scope="module")
def files(benched: Results, folder: Path) -> Files:
    made = pack.made(benched, WHO, STATED, folder, [Path("dropped.txt")])
    (folder / "mine.zip").write_bytes(made.packed())
    return stored.read(folder / "mine.zip")


@pytest.fixture
def verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code and words of `rapgym verify` of a zip of these files, or of a path."""

    def run(sent: "Files | bytes | Path", *options: str) -> tuple[int, str]:
        path = sent if isinstance(sent, Path) else tmp_path / "sent.zip"
        if not isinstance(sent, Path):
            path.write_bytes(sent if isinstance(sent, bytes) else zipped(sent))
        code = cli.main(["verify", str(path), "--jobs", "1", *options])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


def zipped(files: Files) -> bytes:
    """A zip of files, whatever they are called."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, content in files.items():
            whole.writestr(name, content)
    return out.getvalue()


def sealed(files: Files) -> Files:
    """The files with a header that names their digests, as a forger would leave them."""
    digests = {n: submission.sha256(each) for n, each in files.items() if n != HEADER}
    return headed(files, files=digests)


def headed(sent: Files, **change: Any) -> Files:
    header = {**json.loads(sent[HEADER]), **change}
    return {**sent, HEADER: json.dumps(header).encode()}


def without(files: Files, *names: str) -> Files:
    header = {n: value for n, value in json.loads(files[HEADER]).items() if n not in names}
    return {**files, HEADER: json.dumps(header).encode()}


def with_rows(files: Files, change: Callable[[Results], Results]) -> Files:
    rows = change(results.parsed(files[ROWS], ROWS))
    return sealed({**files, ROWS: results.packed(rows, xz=True)})


def with_cell(files: Files, change: Callable[[Cell], Cell]) -> Files:
    return with_rows(
        files,
        lambda rows: dataclasses.replace(rows, cells=(change(rows.cells[0]), *rows.cells[1:])),
    )


def with_rows_header(files: Files, **change: Any) -> Files:
    return with_rows(
        files, lambda rows: dataclasses.replace(rows, header={**rows.header, **change})
    )


def logged(cell: Cell, **change: Any) -> Cell:
    return dataclasses.replace(cell, log=dataclasses.replace(cell.log, **change))


def described(cell: Cell, **change: Any) -> Cell:
    return dataclasses.replace(cell, about=dataclasses.replace(cell.about, **change))


def cheaper(cell: Cell) -> Cell:
    quality = cell.test_quality.copy()
    quality[3, 0] -= 0.1
    return dataclasses.replace(cell, test_quality=quality)


def other_proposal(cell: Cell) -> Cell:
    proposal = cell.log.proposal.copy()
    proposal[:, 0] = ~proposal[:, 0]
    return logged(cell, proposal=proposal)


def shorter(rows: Results) -> Results:
    """Every cell without its last, dearest row."""
    cells = []
    for cell in rows.cells:
        log = {f.name: getattr(cell.log, f.name)[:-1] for f in dataclasses.fields(cell.log)}
        told = {n: getattr(cell, n)[:-1] for n in ("test_nll", "test_measured", "test_quality")}
        cells.append(dataclasses.replace(logged(cell, **log), **told))
    return dataclasses.replace(rows, cells=tuple(cells))


def scored(files: Files, **change: Any) -> Files:
    stand = {**json.loads(files[HEADER])["scores"][0], **change}
    return headed(files, scores=[stand])


def renamed(files: Files, name: str) -> Files:
    return sealed({**files, name: b"x = 1\n"})


def in_scenario(files: Files, change: Callable[[dict[str, Any]], None]) -> Files:
    told = json.loads(json.dumps(results.parsed(files[ROWS], ROWS).header["scenarios"]))
    for numbers in told.values():
        change(numbers)
    return with_rows_header(files, scenarios=told)


def not_a_number(files: Files) -> Files:
    """A cost that is no number, in rows that `results` would never write."""
    import lzma

    head, *lines = lzma.decompress(files[ROWS]).decode().split("\n")
    place = next(i for i, line in enumerate(lines) if line.startswith("quality,"))
    lines[place] = f"quality,nan,{lines[place].split(',', 2)[2]}"
    return sealed({**files, ROWS: lzma.compress("\n".join([head, *lines]).encode())})


OTHER = "0" * 64
# What is done to the files; and words of the sentence that refuses it.
FORGED: dict[str, tuple[Callable[[Files], Files], str]] = {
    "a cheaper row": (lambda f: with_cell(f, cheaper), "of column test_quality: mine on single-v0"),
    "another proposal": (lambda f: with_cell(f, other_proposal), "does not replay"),
    "dropped rows": (lambda f: with_rows(f, shorter), "rows, not"),
    "a dropped seed": (
        lambda f: with_rows(f, lambda r: dataclasses.replace(r, cells=r.cells[:1])),
        "mine, seed 1, on single-v0 missing",
    ),
    "a seed twice": (
        lambda f: with_rows(f, lambda r: dataclasses.replace(r, cells=(*r.cells, r.cells[0]))),
        "1 doubled",
    ),
    "a seed chosen of many": (lambda f: with_rows_header(f, seeds=[]), "names no seeds"),
    "rows of somebody else": (
        lambda f: with_cell(f, lambda c: described(c, policy="frontier")),
        "frontier, seed 0, on single-v0 added",
    ),
    "rows of this process": (
        lambda f: with_cell(f, lambda c: described(c, isolation="none")), "--in-process",
    ),
    "rows of nowhere": (
        lambda f: with_cell(f, lambda c: described(c, isolation=None)), "how it was run",
    ),
    "a deadline": (
        lambda f: with_cell(f, lambda c: described(c, settings={"deadline_ms": 1.0})),
        "under a deadline",
    ),
    "strange settings": (
        lambda f: with_cell(f, lambda c: described(c, settings={"x": 1})), "settings of mine",
    ),
    "calibration for nothing": (
        lambda f: with_cell(f, lambda c: described(c, calibration_passes=0.0)),
        "calibration_passes of mine",
    ),
    "another ceiling": (
        lambda f: with_cell(f, lambda c: described(c, ceiling=0.1)), "ceiling of mine",
    ),
    "a validation cost": (
        lambda f: with_cell(f, lambda c: described(c, validation_cost=0.1)), "validation cost",
    ),
    "another table": (lambda f: with_rows_header(f, tables={"toy": OTHER}), "another table toy"),
    "another workload": (
        lambda f: with_rows_header(f, workloads={}), "made with another workload",
    ),
    "an easier card": (
        lambda f: in_scenario(f, lambda told: told.update(card_gib=80.0)), "another scenario here",
    ),
    "a scenario of their own": (
        lambda f: with_rows_header(f, scenarios={"/etc/passwd.toml": {}}), "no scenario of rapgym",
    ),
    "another environment": (lambda f: with_rows_header(f, env_spec={}), "other environments"),
    "a better score": (lambda f: scored(f, cost=0.0), "score cost of mine"),
    "a better verdict": (lambda f: scored(f, verdict="better"), "score verdict of mine"),
    "a score of nothing": (lambda f: scored(f, scenario="laptop-v0"), "header scores laptop-v0"),
    "no score": (lambda f: headed(f, scores=[]), "names no scenario"),
    "a score that is no number": (lambda f: scored(f, cost=float("nan")), "holds NaN"),
    "a score without end": (lambda f: scored(f, gain=float("inf")), "holds Infinity"),
    "a cost that is no number": (not_a_number, "rows.csv.xz"),
    "another schema": (lambda f: headed(f, schema=2), "schema is 2"),
    "a field of their own": (lambda f: headed(f, rank=1), "what none has: rank"),
    "no licence": (lambda f: without(f, "licence"), "lacks licence"),
    "an empty licence": (lambda f: headed(f, licence=""), "licence can be an SPDX"),
    "no author": (lambda f: headed(f, authors=[]), "authors names 0"),
    "a link that runs": (lambda f: headed(f, link="javascript:alert(1)"), "https://"),
    "markup": (lambda f: headed(f, note="<script>"), "note can be one line"),
    "rows of test": (lambda f: headed(f, saw="test"), "saw can only be train"),
    "another action space": (lambda f: headed(f, action_space="counts"), "action_space can only"),
    "the name of a rival": (lambda f: headed(f, name="int8"), "one of rapgym's own"),
    "the name of a method": (lambda f: headed(f, name="frontier"), "one of rapgym's own"),
    "a name with a path": (lambda f: headed(f, name="../mine"), "lower-case letters"),
    "a swapped file": (lambda f: {**f, MODULE: b"x = 1\n"}, "is not the file that was packed"),
    "swapped rows": (lambda f: {**f, ROWS: b"x"}, "rows.csv.xz of"),
    "an unnamed file": (lambda f: {**f, "policy/more.py": b""}, "its files differ: policy/more.py"),
    "a missing file": (
        lambda f: {n: each for n, each in f.items() if n != MODULE}, f"its files differ: {MODULE}",
    ),
    "no policy": (lambda f: headed(f, policy="other:Mine"), "holds no policy/ file of other:Mine"),
    "rapgym's own policy": (
        lambda f: headed(f, policy="rapgym.policies.reference:FrontierLookup"), "holds no policy/",
    ),
    "a command": (lambda f: headed(f, policy="mine:Mine;x"), "policy can be module:Class"),
    "a run that is elsewhere": (lambda f: headed(f, policy="../w.npz"), "holds no policy/ file"),
    "a way out": (lambda f: renamed(f, "policy/../../x.py"), "leads out of its folder"),
    "an absolute path": (lambda f: renamed(f, "/tmp/x.py"), "leads out of its folder"),
    "a drive": (lambda f: renamed(f, "C:/x.py"), "leads out of its folder"),
    "a hidden file": (lambda f: renamed(f, "policy/.pth"), "no name of a file"),
    "a control character": (lambda f: renamed(f, "policy/a\x1b[2J.py"), "no name of a file"),
    "a file beside": (lambda f: renamed(f, "conftest.py"), "is none of"),
    "names that differ in case": (lambda f: renamed(f, "policy/MINE.py"), "twice"),
    "too many files": (
        lambda f: sealed({**f, **{f"policy/x{i}.py": b"" for i in range(100)}}), "more than 100",
    ),
    "a bomb": (lambda f: sealed({**f, "policy/x.bin": bytes(40 << 20)}), "more than 32 MiB"),
    "a huge file": (
        lambda f: sealed({**f, "policy/x.bin": np.random.default_rng(0).bytes(9 << 20)}),
        "larger than 8 MiB",
    ),
    "a huge header": (lambda f: headed(f, note="x" * limits.SUBMISSION_HEADER), "too large"),
    "a header in depth": (lambda f: {**f, HEADER: b"[" * 100_000}, "submission.json of"),
}  # fmt: skip


def test_what_holds_is_said_to_hold(files: Files, verified: Callable[..., tuple[int, str]]) -> None:
    code, told = verified(files, "--again")
    assert code == 0, told
    assert "what the packed policy decides again in isolation" in told
    assert "not checked: authors" in told
    assert "digest" not in told
    code, told = verified(sealed(files))
    assert code == 0, "a forger's seal is none"
    assert "not checked: that the packed policy made these proposals" in told


@pytest.mark.parametrize("forgery", FORGED)
def test_what_was_tampered_with_is_refused_in_a_sentence(
    forgery: str, files: Files, verified: Callable[..., tuple[int, str]]
) -> None:
    change, words = FORGED[forgery]
    code, told = verified(change(files))
    assert code == 1
    assert words in told
    assert "Traceback" not in told
    assert told.isascii() or told.isprintable()
    assert len(told) < 3000


def zip_with(files: Files, *more: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO(zipped(files))
    with zipfile.ZipFile(out, "a") as whole, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there already
        for about, content in more:
            whole.writestr(about, content)
    return out.getvalue()


def link() -> zipfile.ZipInfo:
    about = zipfile.ZipInfo("policy/link.py")
    about.external_attr = (stat.S_IFLNK | 0o777) << 16
    return about


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: zip_with(files, (link(), b"/etc/passwd")), "is a link or a device"),
        (lambda files: zip_with(files, (zipfile.ZipInfo(MODULE), b"x")), f"holds {MODULE} twice"),
        (lambda files: zipped(files)[:-40], "no submission that can be read"),
        (lambda files: zipped({HEADER: files[HEADER]}), "has no rows.csv.xz"),
        (lambda files: zipped({}), "has no submission.json"),
        (lambda files: zipped(files).replace(MODULE.encode(), b"policy/mine.pz"), "differ"),
    ],
    ids=["a link", "a name twice", "cut short", "no rows", "empty", "another name"],
)
def test_a_zip_that_is_none_is_refused(
    change: Callable[[Files], bytes],
    words: str,
    files: Files,
    verified: Callable[..., tuple[int, str]],
) -> None:
    code, told = verified(change(files))
    assert code == 1
    assert words in told


def test_a_folder_is_read_as_its_zip_is_but_for_links(
    files: Files, tmp_path: Path, verified: Callable[..., tuple[int, str]]
) -> None:
    folder = tmp_path / "entry"
    stored.unpacked(files, folder)
    assert stored.read(folder) == files
    assert verified(folder)[0] == 0
    (folder / "policy" / "mine.py").unlink()
    (folder / "policy" / "mine.py").symlink_to(tmp_path / "elsewhere.py")
    code, told = verified(folder)
    assert code == 1
    assert f"{MODULE} is a link or a device" in told
    (folder / "policy" / "mine.py").unlink()
    os.mkfifo(folder / "policy" / "mine.py")
    assert "is a link or a device" in verified(folder)[1]


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**400,
    0.5,
    "x",
    "\u202e",
    [],
    [[]],
    {},
    {"x": {}},
    [None],
)


def test_whatever_a_field_holds_there_is_no_trace(files: Files, tmp_path: Path) -> None:
    """Each field of the header, of a score in it and of the rows' header, with what does not belong."""
    header = json.loads(files[HEADER])
    rows = results.parsed(files[ROWS], ROWS)
    told = [headed(files, **{name: odd}) for name in header for odd in ODD]
    told += [scored(files, **{name: odd}) for name in header["scores"][0] for odd in ODD]
    told += [with_rows_header(files, **{name: odd}) for name in rows.header for odd in ODD]
    refused: list[str] = []
    for sent in told:
        (tmp_path / "sent.zip").write_bytes(zipped(sent))
        try:
            refused += check.differences(submission.read(tmp_path / "sent.zip"))[:1]
        except RapgymError as error:
            refused.append(str(error))
    assert [each for each in refused if not each.isprintable()] == []
    # Of the rows' header some fields say where it was made; of scores `None` stands for no number.
    assert len(refused) >= 0.7 * len(told)


def test_damaged_bytes_are_refused(files: Files, tmp_path: Path) -> None:
    rng, whole, path = np.random.default_rng(0), zipped(files), tmp_path / "sent.zip"
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            submission.read(path)
        except InvalidResult:
            refused += 1
    assert refused > 200, "some bytes say nothing, such as dates"


# What only the policy's own answers tell.


def with_module(files: Files, text: str) -> Files:
    return sealed({**files, MODULE: text.encode()})


DRAWS = MINE.replace(
    "        return kept", "        kept[:, np.random.default_rng().integers(2, 6)] = False\n        return kept"
)  # fmt: skip
READS = MINE.replace("DROPPED = int(Path", "Path(PLACE).read_bytes()\nDROPPED = int(Path").replace(
    "PLACE", repr(str(next(places.TRACES.glob("*.csv.gz")).resolve()))
)
LATER = MINE.replace(
    "        return kept", "        open(PLACE, 'rb').read(1)\n        return kept"
).replace("PLACE", repr(str(next(places.TRACES.glob("*.csv.gz")).resolve())))


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINE.replace("DROPPED] = False", "DROPPED - 1] = False"), "proposes something else"),
        (DRAWS, "proposes something else"),
        (READS, "Permission denied"),
        (LATER, "is not the source of the same proposals"),
        (MINE.replace("dropped.txt", "other.txt"), "No such file"),
        (MINE + "\n    on_misfit = 'refuse'\n", "meets a misfit otherwise"),
        (MINE.replace("class Mine", "class Other"), "cannot be loaded"),
        ("import os\nos._exit(3)\n", "mine:Mine"),
    ],
    ids=["another policy", "chance", "test data at once", "test data later", "what was not packed",
         "another way to refuse", "another class", "an end"],
)  # fmt: skip
def test_a_policy_that_decides_otherwise_is_refused(
    text: str, words: str, files: Files, verified: Callable[..., tuple[int, str]]
) -> None:
    forged = with_module(files, text)
    assert verified(forged)[0] == 0, "its rows alone do not tell"
    code, told = verified(forged, "--again")
    assert code in (1, 2)
    assert words in told
    assert "Traceback" not in told


def test_nothing_is_run_where_nothing_can_be_hidden(
    files: Files, verified: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    ran = []
    monkeypatch.setattr(check._Asked, "run", lambda each: ran.append(each))
    code, told = verified(files, "--again")
    assert code == 2
    assert "mine is not run: this system hides no files" in told
    assert not ran
    assert verified(files)[0] == 0


def test_only_the_policys_files_lie_where_it_runs(files: Files, tmp_path: Path) -> None:
    (tmp_path / "sent.zip").write_bytes(zipped(files))
    with check.laid_out(submission.read(tmp_path / "sent.zip")) as folder:
        found = {each.name for each in folder.parent.rglob("*") if each.is_file()}
        assert found == {"mine.py", "dropped.txt"}
    assert not folder.parent.exists()


def test_other_code_of_rapgym_is_named_and_not_refused(
    files: Files, verified: Callable[..., tuple[int, str]]
) -> None:
    code, told = verified(with_rows_header(files, code_sha256=OTHER))
    assert code == 0
    assert "not checked: that it was made with code of the digest 000000000000..." in told


def test_a_cost_below_the_bound_is_refused(
    files: Files, verified: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that replay never cost less, so the bound is raised."""
    kept = check._beside

    def raised(*given: Any) -> tuple[Cell, ...]:
        *others, bound = kept(*given)
        return (*others, dataclasses.replace(bound, test_quality=bound.test_quality + 9))

    monkeypatch.setattr(check, "_beside", raised)
    code, told = verified(files)
    assert code == 1
    assert "less than the bound" in told
