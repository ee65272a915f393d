"""Texts with a public source: fetched once, resumed, checked; what is measured where others are missing."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rapgym import cli
from rapgym.errors import DataUnavailable, WrongChecksum
from rapgym.files import limits
from rapgym.quality import texts
from rapgym.quality.texts import text_of

PARTS = {name: f"{name} of a tiny text\n".encode() * 5000 for name in ("valid", "test")}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The two parts of wiki from a server of our own, in place of the public source; no mirror."""
    state: dict[str, Any] = {"parts": dict(PARTS), "ranges": [], "break": 0, "resumes": True}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = state["parts"].get(Path(self.path).stem)
            if content is None:
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            state["ranges"].append(asked)
            first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            if asked and state["resumes"]:
                if first >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                content = content[first:]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: state["break"]] if state["break"] else content)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.delenv("RAPGYM_DATA", raising=False)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        listed = tuple(
            replace(
                text,
                url=address + text.url.rpartition("/")[2],
                content_sha256=hashlib.sha256(PARTS[Path(text.url).stem]).hexdigest(),
            )
            if text.url
            else text
            for text in texts.TEXTS
        )
        monkeypatch.setattr(texts, "TEXTS", listed)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield state
        server.shutdown()


def test_both_parts_are_pulled_once_and_read(
    served: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["texts", "pull"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.read_bytes() for path in paths] == [*PARTS.values()]
    assert texts.read("wiki", "calib") == PARTS["valid"].decode()
    assert texts.here() == ("wiki",)
    assert cli.main(["texts", "pull", "wiki"]) == 0
    assert served["ranges"] == [None, None], "what is there is not asked for again"
    capsys.readouterr()
    assert cli.main(["texts", "list"]) == 0
    said = capsys.readouterr().out
    assert said.count("only a mirror has it") == 4
    assert str(paths[0]) in said


def test_what_broke_off_goes_on_where_it_was(
    served: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    text, whole = text_of("wiki", "test"), PARTS["test"]
    served["break"] = 70_000
    assert cli.main(["texts", "pull"]) == 2
    assert "run it again, which goes on where it was" in capsys.readouterr().err
    assert not list(text.cached.parent.glob("*.txt"))
    served["break"] = 0
    assert texts.pull(text).read_bytes() == whole
    served["ranges"].clear()
    calib = text_of("wiki", "calib")
    assert texts.pull(calib).read_bytes() == PARTS["valid"]
    assert served["ranges"] == ["bytes=70000-"]
    assert {path.suffix for path in text.cached.parent.iterdir()} == {".txt", ".lock"}


def test_a_server_that_cannot_resume_sends_all_again(served: dict[str, Any]) -> None:
    text = text_of("wiki", "test")
    partial = text.cached.with_name(text.cached.name + ".partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"of another try")
    served["resumes"] = False
    assert texts.pull(text).read_bytes() == PARTS["test"]


def test_a_whole_file_that_was_not_moved_yet_is_taken(served: dict[str, Any]) -> None:
    text = text_of("wiki", "test")
    partial = text.cached.with_name(text.cached.name + ".partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(PARTS["test"])
    assert texts.pull(text).read_bytes() == PARTS["test"]


def test_other_content_is_refused_and_not_kept(served: dict[str, Any]) -> None:
    text = text_of("wiki", "test")
    served["parts"]["test"] = b"another text"
    with pytest.raises(WrongChecksum, match="has another content now"):
        texts.pull(text)
    assert [path.suffix for path in text.cached.parent.iterdir()] == [".lock"]
    served["parts"]["test"] = PARTS["test"]
    texts.pull(text).write_bytes(b"damaged")
    with pytest.raises(WrongChecksum, match="run: rapgym texts pull"):
        texts.read("wiki", "test")
    assert texts.pull(text).read_bytes() == PARTS["test"], "it is fetched anew"


def test_a_flood_is_refused(served: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OWN_TEXT", 1000)
    with pytest.raises(WrongChecksum, match="larger than the file that is wanted"):
        texts.pull(text_of("wiki", "test"))


def test_a_source_that_is_gone_is_said(served: dict[str, Any]) -> None:
    del served["parts"]["test"]
    with pytest.raises(DataUnavailable, match=r"HTTP 404.*set RAPGYM_DATA to a folder"):
        texts.pull(text_of("wiki", "test"))
    with pytest.raises(DataUnavailable, match="has no single public source"):
        texts.pull(text_of("books", "test"))


@pytest.mark.parametrize("command", [["measure", "no-model"], ["validate", "--scenario", "laptop"]])
def test_texts_are_checked_before_a_model_is_loaded(
    served: dict[str, Any], command: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, "--quiet"]) == 2
    assert (
        "no text to measure on is on this machine: run rapgym texts pull" in capsys.readouterr().err
    )
    assert cli.main(["texts", "pull"]) == 0
    assert cli.main([*command, "--quiet"]) == 2  # for want of a model
    said = capsys.readouterr().err
    assert "wiki alone" in said
    assert "no text" not in said


def test_a_pulled_domain_is_measured_alone(
    served: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("torch")
    tiny_llama = pytest.importorskip("tiny_llama")
    assert cli.main(["texts", "pull"]) == 0
    folder = tiny_llama.save(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    ask = ["measure", str(folder), "--seq", "32", "--dtype", "float32", "--quiet"]
    capsys.readouterr()
    assert cli.main([*ask, "--kept", "fc", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(len(row["nll"]) == 1 for row in rows)
    with pytest.raises(DataUnavailable, match=r"the text books\.calib is not on this machine"):
        texts.read("books", "calib")
    assert cli.main([*ask, "--design", "choice"]) == 2
    assert "the text books.calib is not on this machine" in capsys.readouterr().err
