"""Raw files: found in the mirror or the cache, checked, pulled from their public source."""

import gzip
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rapgym.errors import DataUnavailable, WrongChecksum
from rapgym.files import checked
from rapgym.workload import sources
from rapgym.workload.sources import Source

CONTENT = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
PACKED = gzip.compress(CONTENT, mtime=0)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Source:
    """A public source of a few bytes in place of "azure-code"; empty mirror and cache."""
    source = replace(
        sources.source_of("azure-code"),
        sha256=hashlib.sha256(PACKED).hexdigest(),
        content_sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setattr(sources, "SOURCES", (source,))
    monkeypatch.setenv("RAPGYM_DATA", str(tmp_path / "mirror"))
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    return source


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tiny: Source) -> Iterator[dict[str, bytes | int]]:
    """The tiny source's public file, from a server of our own; and how often it was asked for."""
    state: dict[str, bytes | int] = {"content": CONTENT, "asked": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state["asked"] = int(state["asked"]) + 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(state["content"]))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/{tiny.origin}"
        monkeypatch.setattr(Source, "url", property(lambda _: url))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def _put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_registry_is_consistent() -> None:
    names = [source.name for source in sources.SOURCES]
    assert len(set(names)) == len(names)
    for source in sources.SOURCES:
        assert len(source.sha256) == 64
        assert source.licence
        assert source.attribution
        if source.url:
            assert source.commit in source.url, "a public file is pinned to a commit"


def test_mirror_comes_first_then_cache(tiny: Source, tmp_path: Path) -> None:
    cached = _put(tiny.cached, CONTENT)
    assert sources.path_of(tiny.name) == cached
    packed = _put(tmp_path / "mirror" / tiny.path, PACKED)
    assert sources.path_of(tiny.name) == packed


def test_absent_file_says_how_to_get_it(tiny: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataUnavailable, match=r"rapgym traces pull azure-code; or set RAPGYM_DATA"):
        sources.path_of(tiny.name)
    monkeypatch.setattr(sources, "SOURCES", (replace(tiny, content_sha256=None),))
    for action in (sources.path_of, sources.pull):
        with pytest.raises(DataUnavailable, match="no single public source") as error:
            action(tiny.name)
        assert "pull azure-code" not in str(error.value), (
            "what cannot be pulled is not to be pulled"
        )


@pytest.mark.parametrize("action", [sources.path_of, sources.pull, sources.source_of])
def test_unknown_name_lists_the_known(action: object) -> None:
    assert callable(action)
    with pytest.raises(DataUnavailable, match="there are azure-conv"):
        action("azure")


def test_wrong_content_is_refused_wherever_it_lies(tiny: Source, tmp_path: Path) -> None:
    _put(tiny.cached, CONTENT + b"\n")
    with pytest.raises(WrongChecksum, match="rapgym traces pull"):
        sources.path_of(tiny.name)
    _put(tmp_path / "mirror" / tiny.path, PACKED[:-1])
    with pytest.raises(WrongChecksum, match="RAPGYM_DATA"):
        sources.path_of(tiny.name)


def test_content_is_hashed_again_only_when_the_file_changed(
    tiny: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _put(tiny.cached, CONTENT)
    sources.path_of(tiny.name)
    with monkeypatch.context() as patch:
        patch.setattr(checked, "sha256_of", lambda _: pytest.fail("hashed again"))
        sources.path_of(tiny.name)
    path.write_bytes(CONTENT.replace(b"10", b"11"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(WrongChecksum):
        sources.path_of(tiny.name)


def test_pull_downloads_once(served: dict[str, bytes | int], tiny: Source) -> None:
    path = sources.pull(tiny.name)
    assert path.read_bytes() == CONTENT
    assert sources.pull(tiny.name) == path == sources.path_of(tiny.name)
    assert served["asked"] == 1


def test_pull_replaces_a_damaged_file(served: dict[str, bytes | int], tiny: Source) -> None:
    _put(tiny.cached, b"half of it")
    assert sources.pull(tiny.name).read_bytes() == CONTENT


def test_pull_refuses_other_content(served: dict[str, bytes | int], tiny: Source) -> None:
    served["content"] = b"<html>not found</html>"
    with pytest.raises(WrongChecksum, match="another content"):
        sources.pull(tiny.name)
    assert not tiny.cached.exists()


def test_pull_says_when_the_source_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, tiny: Source
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(Source, "url", property(lambda _: f"http://127.0.0.1:{port}/trace.csv"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DataUnavailable, match="could not be pulled") as error:
        sources.pull(tiny.name)
    assert "RAPGYM_DATA" in str(error.value)


def test_every_raw_file_is_what_the_registry_says(raw_data: Path) -> None:
    for source in sources.SOURCES:
        path = sources.path_of(source.name)
        assert path == raw_data / source.path
        if source.content_sha256:
            content = gzip.decompress(path.read_bytes())
            assert hashlib.sha256(content).hexdigest() == source.content_sha256
