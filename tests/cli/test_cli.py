"""The command line: exit codes, help, and the commands that need no bench."""

import argparse
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_llama

import rapgym
from rapgym import cli, errors
from rapgym.cli import doctor, main
from rapgym.quality import texts
from rapgym.quality.table import QualityTable


def commands() -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """Every parser of the command line by its words."""
    found: dict[tuple[str, ...], argparse.ArgumentParser] = {}

    def walk(words: tuple[str, ...], parser: argparse.ArgumentParser) -> None:
        found[words] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, below in action.choices.items():
                    walk((*words, name), below)

    walk((), cli.parser())
    return found


COMMANDS = {words: parser for words, parser in commands().items() if words}


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `rapgym doctor` raise."""

    def set_error(error: BaseException) -> None:
        def run(arguments: argparse.Namespace) -> int:
            raise error

        monkeypatch.setattr(doctor, "run", run)

    return set_error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidResult("row 3 differs"), 1),
        (errors.InvalidSpec("no scenario is called x"), 2),
        (errors.UnmeasuredSet("no row"), 2),
        (errors.WrongChecksum("not the file"), 2),
        (errors.MissingExtra("torch is not installed"), 2),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_errors_become_a_sentence_and_an_exit_code(
    raising: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    raising(error)
    assert main(["doctor"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"rapgym: {error or 'interrupted'}\n".replace(": \n", ": interrupted\n")


def test_a_bug_keeps_its_trace(raising: Callable[[BaseException], None]) -> None:
    raising(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


@pytest.mark.parametrize("wrong", [[], ["nonsense"], ["doctor", "--nonsense"], ["models", "pull"]])
def test_wrong_arguments_exit_with_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(wrong)
    assert stopped.value.code == 2
    assert "usage: rapgym" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"rapgym {rapgym.__version__}\n"


def test_output_that_nobody_reads_is_no_error_message() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "rapgym", "models", "list", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_parses(words: tuple[str, ...]) -> None:
    parser = COMMANDS[words]
    example = (parser.epilog or "").partition("example: ")[2].partition(";")[0]
    setting = r"(\w+=\S+ )*"
    assert re.match(setting + "rapgym ", example), "every command's help ends with an example"
    arguments = shlex.split(re.sub(setting, "", example, count=1))[1:]
    assert tuple(arguments[: len(words)]) == words
    assert callable(cli.parser().parse_args(arguments).run)
    assert parser.format_help()


def test_every_module_of_a_command_is_listed() -> None:
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__"}
    commands = {
        name for name in modules if hasattr(importlib.import_module(f"rapgym.cli.{name}"), "add")
    }
    assert set(cli.COMMANDS) == commands


# models, doctor


def test_models_list_says_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path))
    assert main(["models", "list"]) == 0
    assert "run: rapgym models pull smollm2-135m" in capsys.readouterr().out
    assert main(["models", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["file"]) == ("smollm2-135m", None)


def test_pulling_an_unknown_model_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", "gpt-7"]) == 2
    assert "known models: smollm2-135m" in capsys.readouterr().err


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {row["subject"]: row for row in json.loads(capsys.readouterr().out)}


def test_doctor_on_a_machine_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "not" / "made" / "yet"))
    monkeypatch.delenv("RAPGYM_DATA", raising=False)
    assert main(["doctor", "--json"]) == 0, "what is optional may be absent"
    found = findings(capsys)
    assert found["numpy"]["state"] == found["cache"]["state"] == "ok"
    assert found["RAPGYM_DATA"]["state"] == "absent"
    assert found["weights smollm2-135m"]["state"] == "absent"
    assert found["weights smollm2-135m"]["remedy"] == "run: rapgym models pull smollm2-135m"


def test_doctor_finds_damage_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path))
    weights = tmp_path / "models" / "smollm2-135m" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"cut short")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "wiki.test.txt.xz").write_bytes(b"another text")
    monkeypatch.setenv("RAPGYM_DATA", str(tmp_path))
    assert main(["doctor", "--json"]) == 1
    found = findings(capsys)
    assert found["RAPGYM_DATA"]["state"] == "ok"
    assert found["weights smollm2-135m"]["state"] == "wrong"
    assert found["text wiki.test"]["state"] == "wrong"
    assert main(["doctor"]) == 1
    assert "wrong   text wiki.test: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "requirement", "meets"),
    [
        ("1.4.0", "gymnasium>=1.2.2,<2", True),
        ("1.2.1", "gymnasium>=1.2.2,<2", False),
        ("2.0", "gymnasium<2,>=1.2.2", False),
        ("2.0.0", "numpy>=2", True),
        ("2.13.0+cpu", "torch>=2.8", True),
        ("10.1rc1", "x>=9.9", True),
        ("3", "anything", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, requirement: str, meets: bool) -> None:
    assert doctor.within(version, requirement) is meets


# measure


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a `measure` command on a tiny model, its texts and folders."""
    monkeypatch.setattr(texts, "read", tiny_llama.text)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    folder = tiny_llama.save(tmp_path / "tiny")
    return ["measure", str(folder), "--seq", "48", "--dtype", "float32", "--quiet"]


def test_measure_kept_prints_each_set_on_each_sample(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny += ["--kept", "fc", "7c", "--json"]
    assert main(tiny) == 0
    rows = json.loads(capsys.readouterr().out)
    places = [(row["sample"], row["key"]) for row in rows]
    assert places == [("calib", "fc"), ("calib", "7c"), ("test", "fc"), ("test", "7c")]
    assert rows[0]["nll"] == [0, 0, 0]
    assert (tmp_path / "cache" / "measure" / "tiny.work.jsonl").is_file()
    assert main([*tiny, "--sample", "test-large"]) == 0
    assert {row["sample"] for row in json.loads(capsys.readouterr().out)} == {"test-large"}


def test_measure_writes_the_same_table_again_from_what_it_kept(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny.csv.gz"
    tiny += ["--attention-drops", "2", "--ffn-drops", "3", "--random", "6", "--near", "2"]
    assert main([*tiny, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    table = QualityTable.load(out)
    work = (tmp_path / "cache" / "measure" / "tiny.work.jsonl").read_bytes()
    again = tmp_path / "again.csv.gz"
    assert main([*tiny, "--out", str(again), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["table"] == str(again)
    assert (tmp_path / "cache" / "measure" / "tiny.work.jsonl").read_bytes() == work
    dense = np.ones(2 * tiny_llama.LAYERS, dtype=bool)
    nll, measured = table.calibration().nll(dense)
    assert (float(nll), bool(measured)) == (0.0, True)
    assert (
        QualityTable.load(again).calibration().order.tolist() == table.calibration().order.tolist()
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--kept", "zz"], "is no key of 6 blocks"),
        (["--kept", "fc", "--sample", "x"], "no sample is called 'x'"),
        (["--sample", "test"], "--sample goes with --kept"),
        (["--out", "table.csv"], "name ends in .csv.gz"),
        (["--attention-drops", "3"], "--attention-drops may be 2 at most"),
    ],
)
def test_measure_refuses_what_it_cannot_do(
    tiny: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main([*tiny, *more]) == 2
    assert message in capsys.readouterr().err


def test_measuring_a_model_that_is_nowhere_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path))
    monkeypatch.setattr(texts, "read", tiny_llama.text)
    assert main(["measure", "smollm2-135m"]) == 2
    assert "run: rapgym models pull smollm2-135m" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["measure", str(tmp_path / "empty")]) == 2
    assert "empty cannot be loaded: " in capsys.readouterr().err


def test_measure_without_torch_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["measure", "smollm2-135m"]) == 2
    assert "pip install 'rapgym[device]'" in capsys.readouterr().err
