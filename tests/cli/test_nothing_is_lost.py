"""No command overwrites what is there, unless it is told to."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_llama
from audit_logs import written
from toy_world import tuned

from rapgym import cli
from rapgym.bench import run as bench_run
from rapgym.files import places
from rapgym.model import blocks
from rapgym.policies import registry, trained
from rapgym.quality import texts
from rapgym.scenarios.story import Scenario

Capture = pytest.CaptureFixture[str]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def _tuned(one_pairing: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of what is run beside every policy."""
    settings = {"kept": blocks.key(np.ones(6, dtype=bool))}
    found = tuned(one_pairing, settings)
    monkeypatch.setattr(
        registry, "tuned", lambda: {"static-best-repaired": {one_pairing.id: found}}
    )


@pytest.mark.usefixtures("_tuned")
def test_bench_numbers_its_default_file_and_refuses_one_that_is_named(
    one_pairing: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    ask = [
        "bench",
        "--jobs",
        "1",
        "--scenario",
        one_pairing.name,
        "--policy",
        "keep-all",
        "--quiet",
    ]
    for name in ("bench", "bench-1", "bench-2"):
        assert cli.main(ask) == 0
        assert f"wrote results/{name}.csv.gz; check it" in capsys.readouterr().out
    path = Path("results/bench-1.csv.gz")
    path.write_bytes(b"mine")
    assert cli.main([*ask, "--out", str(path)]) == 2
    assert f"{path} is there already: name another file with --out" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert cli.main([*ask, "--out", str(path), "--force"]) == 0
    assert path.read_bytes() != b"mine"
    assert cli.main([*ask, "--out", "results", "--force"]) == 2
    assert not list(Path("results").glob("*.parts"))


@pytest.mark.usefixtures("_tuned")
def test_bench_says_that_it_goes_on_with_what_was_left(
    one_pairing: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = tmp_path / "bench.csv.gz"

    def stop(found: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench_run.run([one_pairing], ["keep-all"], out, summary=stop, quiet=True)  # type: ignore[arg-type]
    left = len(list(out.with_name("bench.csv.gz.parts").iterdir()))
    assert left > 1
    capsys.readouterr()
    bench_run.run([one_pairing], ["keep-all"], out)
    assert (
        f"goes on with {left} cells that a stopped run left in {out}.parts"
        in capsys.readouterr().err
    )


def test_train_overwrites_no_policy_of_other_settings(
    toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "TRAINED", tmp_path / "trained")
    small = ("steps=320", "rounds=2", "lanes=4", "rollout=40", "batch=40", "width=8")
    sets = [word for one in small for word in ("--set", one)]
    ask = ["train", "ppo_counts", "--scenario", toy_story.name, "--told", "train",
           "--seeds", "1", "--jobs", "1", "--quiet", *sets]  # fmt: skip
    assert cli.main([*ask, "--publish"]) == 0
    (path,) = Path("runs").rglob("policy.npz")
    published = tmp_path / "trained" / f"{trained.place('ppo_counts', toy_story, 'train', 0)}.npz"
    before = sha256(path), sha256(published)
    capsys.readouterr()
    assert cli.main([*ask, "--publish"]) == 0, "what is the same is published once more"
    other = [*ask, "--set", "learning_rate=0"]
    assert cli.main(other) == 2
    assert (
        f"{path.absolute()} is there already, of a run with other settings"
        in capsys.readouterr().err
    )
    assert cli.main([*other, "--out", "others", "--publish"]) == 2
    assert f"{published} is there already" in capsys.readouterr().err
    assert (sha256(path), sha256(published)) == before
    assert cli.main([*other, "--force"]) == 0
    assert sha256(path) != before[0]


def test_measure_refuses_a_table_that_is_there_before_it_loads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(texts, "read", tiny_llama.text)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "t.csv.gz"
    out.write_bytes(b"mine")
    (tmp_path / "mail.txt").write_text("one line\nanother\n")
    text = ["--text", f"mail={tmp_path / 'mail.txt'}"]
    ask = ["measure", str(tmp_path / "no-model"), "--out", str(out), "--quiet", *text]
    assert cli.main(ask) == 2
    assert f"{out} is there already" in capsys.readouterr().err
    assert cli.main([*ask, "--force"]) == 2
    assert "no-model cannot be loaded" in capsys.readouterr().err
    assert cli.main([*ask, "--kept", "fc"]) == 2
    assert "cannot be loaded" in capsys.readouterr().err, (
        "nothing is written, so nothing is in the way"
    )
    assert out.read_bytes() == b"mine"


def test_validate_refuses_a_report_that_is_there_before_it_loads_a_model(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "report.json"
    path.write_text("mine")
    assert cli.main(["validate", "--out", str(path), "--quiet"]) == 2
    assert f"{path} is there already: name another file with --out" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_audit_adds_to_no_log_and_overwrites_no_export_unasked(
    toy_story: Scenario, tmp_path: Path, capsys: Capture
) -> None:
    log, export = tmp_path / "log.jsonl", tmp_path / "out.csv"
    written(log, rows=2)
    before = sha256(log)
    make = ["audit", str(log), "--make", "--scenario", toy_story.name]
    assert cli.main(make) == 2
    assert f"{log} is there already: name another log, or add to it" in capsys.readouterr().err
    assert sha256(log) == before
    export.write_text("mine")
    assert cli.main(["audit", str(log), "--export", str(export)]) == 2
    assert "is there already: name another file with --export" in capsys.readouterr().err
    assert export.read_text() == "mine"
    assert cli.main(["audit", str(log), "--export", str(export), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decisions"] > 0
    assert export.read_text() != "mine"
