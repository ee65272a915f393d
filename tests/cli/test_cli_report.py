"""`rapgym report`, and `rapgym bench --report`: what is written, what is refused, what is missing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit_logs import written
from report_pages import Parsed, toy_bench

from rapgym.cli import main
from rapgym.cli import report as cli_report
from rapgym.scenarios.story import Scenario

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'rapgym[report]'")
pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'rapgym[report]'")


@pytest.fixture(scope="module")
def results(toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("cli_report") / "bench.csv.gz"
    with pytest.MonkeyPatch.context() as patch:
        toy_bench(toy_story, out, patch)
        yield out


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_report_of_results_is_written_once(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(results)]) == 0
    assert "wrote bench.html (" in capsys.readouterr().out
    text = (tmp_path / "bench.html").read_text("utf-8")
    assert "Is run-time pruning worth it?" in Parsed(text).text
    assert main(["report", str(results)]) == 2
    assert "bench.html is there already" in capsys.readouterr().err
    assert main(["report", str(results), "--force", "--policy", "keep-all", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    again = (tmp_path / "bench.html").read_bytes()
    assert told == {"file": "bench.html", "bytes": len(again)}
    assert again != text.encode()
    assert not list(tmp_path.glob("*.partial"))


def test_a_report_of_a_log_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "decisions.jsonl")
    assert main(["report", "decisions.jsonl", "--out", "sub/log.html"]) == 0
    assert "Who decided, when, and why" in (tmp_path / "sub/log.html").read_text("utf-8")
    assert main(["report", "decisions.jsonl", "--since", "2999-01-01", "--out", "none.html"]) == 0
    assert "No decision was found." in (tmp_path / "none.html").read_text("utf-8")
    assert main(["report", "decisions.jsonl", "--since", "soon", "--force"]) == 2
    assert "is no moment" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "page.txt"], "let --out end in .html"),
        (["--scenario", "nowhere"], "no scenario 'nowhere'; it has toy-v0"),
        (["--policy", "nobody"], "no policy 'nobody'"),
        (["--since", "2026-01-01"], "--since is for an audit log"),
    ],
)
def test_wrong_use_says_what_to_do(
    results: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert main(["report", str(results), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


def test_options_of_results_are_not_for_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "decisions.jsonl")
    assert main(["report", "decisions.jsonl", "--policy", "gsi"]) == 2
    assert "--policy is for a results file" in capsys.readouterr().err


def test_what_is_neither_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    assert main(["report", "x.csv"]) == 1
    assert "is no results file" in capsys.readouterr().err
    assert main(["report", "none.csv.gz"]) == 1


@pytest.mark.parametrize("command", ["report", "bench"])
def test_without_the_extra_nothing_is_begun(
    command: str,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = {"report": [str(results)], "bench": ["--report", "page.html", "--scenario", "toy"]}
    assert main([command, *arguments[command]]) == 2
    assert "pip install 'rapgym[report]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("results")
def test_a_bench_writes_its_report(
    toy_story: Scenario, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = [
        "bench",
        "--scenario",
        "toy",
        "--policy",
        "keep-all",
        "--quiet",
        "--jobs",
        "1",
        "--report",
    ]
    assert main([*bench, "page.html"]) == 0
    told = capsys.readouterr().out
    assert "wrote page.html (" in told
    page = Parsed((tmp_path / "page.html").read_text("utf-8"))
    assert "rapgym verify results/bench.csv.gz" in page.text
    assert main([*bench, "page.html"]) == 2
    assert "name another file with --report" in capsys.readouterr().err
    assert not (tmp_path / "results/bench-1.csv.gz").exists()


@pytest.mark.parametrize(
    ("name", "out"),
    [("results/bench.csv.xz", "bench.html"), ("a.b.jsonl", "a.html"), (".hidden", "report.html")],
)
def test_a_page_is_called_as_its_file(name: str, out: str) -> None:
    assert cli_report.default_out(Path(name)) == Path(out)
