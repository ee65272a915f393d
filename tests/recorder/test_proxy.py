"""The proxy before a model server: what passes is not changed, lengths are noted, text is not kept."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rapgym.errors import InvalidSpec
from rapgym.files import limits
from rapgym.recorder import proxy
from rapgym.recorder.answer_usage import Answer, Lengths, prompt_characters
from rapgym.recorder.proxy import Proxy
from rapgym.workload.trace import read_requests

USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
SECRET = "what nobody else may read"


def event(content: str | None = None, **more: Any) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    return b"data: " + json.dumps({"choices": choices} | more).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


class Upstream(ThreadingHTTPServer):
    """A model server that answers as the path of the request says."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.go_on = threading.Event()  # a stream holds back all but its first event until then
        super().__init__(("127.0.0.1", 0), _Answering)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None: ...


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def log_message(self, *_: Any, **__: Any) -> None: ...

    def do_GET(self) -> None:
        self._whole(200, b'{"data": []}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.command, self.path, headers, body))
        kind = self.path.split("/")[1]
        if kind == "plain":
            message = {"message": {"role": "assistant", "content": "A reply."}}
            self._whole(200, json.dumps({"choices": [message], "usage": USAGE}).encode())
        elif kind == "mute":  # tells no usage: 8 characters are 2 tokens
            self._whole(200, json.dumps({"choices": [{"text": "A reply."}]}).encode())
        elif kind == "error":
            self._whole(429, b'{"error": {"message": "too many"}}', **{"Retry-After": "7"})
        elif kind == "stream":
            self._stream(event("one"), event(" two"), event(usage=USAGE), DONE)
        elif kind == "mutestream":
            self._stream(event("one"), event(" two"), event(""), DONE)
        elif kind == "cut":
            self._stream(event("one"), event(" two"))
            self.close_connection = True
        elif kind == "hangup":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _whole(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, *events: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for place, each in enumerate(events):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(each), each))
            if place == 0:
                self.server.go_on.wait(30)
        if events[-1] == DONE:
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Noted(list[tuple[float, Lengths]]):
    """What a proxy noted, and where it listens."""

    port = 0

    def lengths(self, count: int = 1) -> list[Lengths]:
        """Once there are so many: a request is noted after its last byte was sent."""
        while len(self) < count:
            time.sleep(0.01)
        return [lengths for _, lengths in self]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    server.go_on.set()
    with serving(server):
        yield server


@pytest.fixture
def noted(upstream: Upstream) -> Iterator[Noted]:
    found, clock = Noted(), iter(range(1000))

    def note(arrival_s: float, lengths: Lengths) -> None:
        found.append((arrival_s, lengths))

    with Proxy(("127.0.0.1", 0), upstream.url, lambda: float(next(clock)), note) as server:
        found.port = server.server_port
        with serving(server):
            yield found


BODY = json.dumps({"messages": [{"role": "user", "content": SECRET}]}).encode()


@contextmanager
def asked(
    port: int, path: str, body: bytes | None = BODY, **headers: str
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST" if body is not None else "GET", path, body, headers)
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def direct_and_through(upstream: Upstream, noted: Noted, path: str) -> list[Any]:
    found = []
    for port in (upstream.server_address[1], noted.port):
        with asked(port, path) as answer:
            names = ("Content-Type", "Content-Length", "Retry-After")
            kept = {name: answer.getheader(name) for name in names}
            found.append((answer.status, kept, answer.read()))
    return found


def test_a_plain_answer_passes_unchanged_and_its_usage_is_noted(
    upstream: Upstream, noted: Noted
) -> None:
    direct, through = direct_and_through(upstream, noted, "/plain/v1/chat/completions")
    assert through == direct
    assert noted.lengths() == [Lengths(11, 3, estimated=False)]
    assert noted[0][0] == 0.0, "when it came"


def test_a_request_arrives_as_it_was_sent(upstream: Upstream, noted: Noted) -> None:
    headers = {"Authorization": "Bearer abc", "X-Own": "1", "Connection": "X-Hop", "X-Hop": "2"}
    with asked(noted.port, "/plain/v1/completions?a=b", BODY, **headers) as answer:
        answer.read()
    ((method, path, seen, body),) = upstream.seen
    assert (method, path, body) == ("POST", "/plain/v1/completions?a=b", BODY)
    assert (seen["authorization"], seen["x-own"]) == ("Bearer abc", "1")
    assert "x-hop" not in seen, "it was of one connection"
    assert seen["host"] == upstream.url.removeprefix("http://")
    assert seen["accept-encoding"] == "identity", "lengths cannot be read in a packed answer"


def test_a_chunked_request_is_passed_on_whole(upstream: Upstream, noted: Noted) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", noted.port, timeout=30)
    connection.request(
        "POST", "/plain/v1/completions", iter([BODY[:9], BODY[9:]]), encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )  # fmt: skip
    assert connection.getresponse().read()
    connection.close()
    assert upstream.seen[0][3] == BODY


def test_a_stream_passes_event_by_event(upstream: Upstream, noted: Noted) -> None:
    upstream.go_on.clear()
    with asked(noted.port, "/stream/v1/chat/completions") as answer:
        first = answer.readline() + answer.readline()
        assert first == event("one"), "it is here while the server holds back the rest"
        assert not noted
        upstream.go_on.set()
        assert first + answer.read() == event("one") + event(" two") + event(usage=USAGE) + DONE
    assert noted.lengths() == [Lengths(11, 3, estimated=False)]


def test_lengths_that_are_not_told_are_estimated_and_flagged(
    upstream: Upstream, noted: Noted
) -> None:
    for path in ("/mute/v1/completions", "/mutestream/v1/chat/completions"):
        with asked(noted.port, path) as answer:
            answer.read()
    prompt = -(-len(SECRET) // 4)
    assert noted.lengths(2) == [
        Lengths(prompt, 2, estimated=True),  # "A reply." has 8 characters
        Lengths(prompt, 2, estimated=True),  # two events brought text
    ]


def test_errors_pass_and_are_not_noted(upstream: Upstream, noted: Noted) -> None:
    direct, through = direct_and_through(upstream, noted, "/error/v1/chat/completions")
    assert through == direct
    assert through[0] == 429
    assert through[1]["Retry-After"] == "7"
    with asked(noted.port, "/hangup/v1/chat/completions") as answer:
        assert answer.status == 502
        assert "does not answer" in json.loads(answer.read())["error"]["message"]
    with asked(noted.port, "/v1/models", None) as answer:
        assert (answer.status, answer.read()) == (200, b'{"data": []}')
    with asked(noted.port, "/plain/v1/completions") as answer:
        answer.read()
    assert noted.lengths() == [Lengths(11, 3, estimated=False)], "that one, and none before it"


def test_a_server_that_is_not_there_is_a_502() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with (
        Proxy(("127.0.0.1", 0), url, lambda: 0.0, lambda *_: None) as server,
        serving(server),
        asked(server.server_port, "/v1/completions") as answer,
    ):
        assert answer.status == 502


def test_a_cut_stream_is_seen_to_be_cut_and_counts(upstream: Upstream, noted: Noted) -> None:
    with (
        asked(noted.port, "/cut/v1/completions") as answer,
        pytest.raises(http.client.IncompleteRead) as cut,
    ):
        answer.read()
    assert cut.value.partial == event("one") + event(" two")
    assert noted.lengths() == [Lengths(-(-len(SECRET) // 4), 2, estimated=True)]


def test_a_client_that_leaves_is_noted_and_harms_nobody(upstream: Upstream, noted: Noted) -> None:
    upstream.go_on.clear()
    with socket.create_connection(("127.0.0.1", noted.port)) as client:
        head = f"POST /stream/v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
        client.sendall(head.encode() + BODY)
        client.recv(1)
    upstream.go_on.set()
    assert noted.lengths()[0].output_tokens >= 1, "what it was sent did take memory"
    with asked(noted.port, "/plain/v1/completions") as answer:
        assert answer.status == 200
    noted.lengths(2)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: x", 413),
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999", 413),
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip", 400),
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
         "Transfer-Encoding: chunked", 400),
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1", 400),
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
         "Transfer-Encoding: chunked", 400),
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " + "1" * 9000, 413),
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ٣", 413),
        ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: +3", 413),
        ("GET http://other.example/ HTTP/1.1\r\nHost: x", 501),
        ("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket", 501),
    ],
)  # fmt: skip
def test_requests_that_could_be_misread_are_refused(
    upstream: Upstream, noted: Noted, head: str, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", noted.port), timeout=30) as client:
        client.sendall(f"{head}\r\n\r\n".encode())
        with client.makefile("rb") as answer:
            assert int(answer.readline().split()[1]) == status
    assert upstream.seen == []


@pytest.mark.parametrize(
    "chunks",
    [b"0x3\r\nabc\r\n0\r\n\r\n", b"+3\r\nabc\r\n0\r\n\r\n", b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
     b"0" * 900 + b"3\r\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\n\r\n", b"\r\n",
     b"0\r\n" + b"a: b\r\n" * 200 + b"\r\n"],
)  # fmt: skip
def test_chunks_that_could_be_misread_are_refused(
    upstream: Upstream, noted: Noted, chunks: bytes
) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", noted.port), timeout=30) as client:
        client.sendall(head + chunks)
        with client.makefile("rb") as answer:
            assert int(answer.readline().split()[1]) == 400
    assert upstream.seen == []


@pytest.mark.parametrize(
    "lengths",
    [b"Content-Length: 2\r\nContent-Length: 3", b"Content-Length: 2\r\nTransfer-Encoding: chunked",
     b"Content-Length: " + b"9" * 40, b"Content-Length: x"],
)  # fmt: skip
def test_an_answer_that_could_be_misread_is_not_passed_on(lengths: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with (
            Proxy(("127.0.0.1", 0), url, lambda: 0.0, lambda *_: None) as proxied,
            serving(proxied),
            asked(proxied.server_port, "/v1/completions") as found,
        ):
            assert found.status == 502
            assert b"in two ways" in found.read()
        thread.join()


def test_a_long_line_is_read_in_time_that_grows_with_its_length() -> None:
    piece, answer = b"x" * 4096, Answer(is_stream=True)
    answer.feed(b'data: {"choices": [{"delta": {"content": "')
    begun_s = time.process_time()
    for _ in range(8 << 10):  # 32 MiB: joined anew with each piece, 128 GiB would be copied
        answer.feed(piece)
    answer.feed(b'"}}]}\n' + event(usage=USAGE))
    assert time.process_time() - begun_s < 2
    answer.end()
    assert answer.events == 1
    assert answer.lengths(0) == Lengths(11, 3, estimated=False)


def test_an_event_without_end_is_passed_over_and_those_after_it_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ANSWER", 1000)
    answer = Answer(is_stream=True)
    for _ in range(100):
        answer.feed(event("x")[:-2].replace(b"x", b"x" * 50))
    assert sum(map(len, answer._begun)) <= 1000
    answer.feed(b"\n" + event("y"))
    answer.end()
    assert answer.events == 1


def test_answers_are_read_whatever_pieces_they_come_in() -> None:
    whole = event("häl") + event("lo") + event("", usage=USAGE) + DONE
    for size in (1, 2, 7, len(whole)):
        answer = Answer(is_stream=True)
        for start in range(0, len(whole), size):
            answer.feed(whole[start : start + size])
        answer.end()
        assert answer.lengths(400) == Lengths(11, 3, estimated=False)
        assert answer.events == 2


def test_usage_that_comes_in_parts_is_put_together_field_by_field() -> None:
    first = {"input_tokens": 7, "cache_read_input_tokens": 9000, "cache_creation_input_tokens": 1000,
             "output_tokens": 1}  # fmt: skip
    begun = {"type": "message_start", "message": {"usage": first}}
    text = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "abc"}}] * 5
    ended = {
        "type": "message_delta",
        "delta": {},
        "usage": {"input_tokens": None, "output_tokens": 40},
    }

    def read(*events: dict[str, Any]) -> Lengths:
        answer = Answer(is_stream=True)
        for each in events:
            answer.feed(b"event: x\ndata: " + json.dumps(each).encode() + b"\n\n")
        answer.end()
        return answer.lengths(8)

    assert read(begun, *text, ended) == Lengths(10_007, 40, False)
    assert read(begun, *text) == Lengths(10_007, 5, True), (
        "cut: the last word on its output never came"
    )


def test_events_that_bring_several_tokens_are_estimated_by_their_text() -> None:
    answer = Answer(is_stream=True)
    answer.feed(event("x" * 40) + event("y" * 2) + DONE)
    answer.end()
    assert answer.lengths(8) == Lengths(2, 11, True)


def test_usage_of_other_dialects_and_nonsense() -> None:
    def read(found: Any, is_stream: bool = False) -> Lengths:
        answer = Answer(is_stream)
        answer.feed(found if isinstance(found, bytes) else json.dumps(found).encode())
        answer.end()
        return answer.lengths(8)

    assert read({"usage": {"input_tokens": 5, "output_tokens": 6}}) == Lengths(5, 6, False)
    completed = {"type": "x", "response": {"usage": {"input_tokens": 5, "output_tokens": 6}}}
    assert read(b"data: " + json.dumps(completed).encode(), True) == Lengths(5, 6, False)
    assert read({"usage": {"prompt_tokens": 5}}) == Lengths(5, 0, True)
    cached = {
        "input_tokens": 7,
        "cache_read_input_tokens": 9000,
        "cache_creation_input_tokens": 1000,
    }
    assert read({"usage": cached | {"output_tokens": 6}}) == Lengths(10_007, 6, False)
    beside = {"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81,
              "completion_tokens_details": {"reasoning_tokens": 60}}  # fmt: skip
    assert read({"usage": beside}) == Lengths(21, 60, False)
    assert read({"usage": beside | {"total_tokens": 90}}) == Lengths(21, 69, True), (
        "nothing adds up"
    )
    for nonsense in (b"", b"[]", b"{", b"[" * 100_000, b'{"usage": {"prompt_tokens": true}}'):
        assert read(nonsense) == Lengths(2, 0, True)
    assert prompt_characters(b'{"prompt": ["abc", "de"], "instructions": "f"}') == 6
    for nonsense in (b"", b"[]", b"{", b"[" * 100_000):
        assert prompt_characters(nonsense) == 0


def test_addresses() -> None:
    assert proxy.address("8001") == ("127.0.0.1", 8001), "on this machine alone unless told"
    assert proxy.address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert proxy.address("[::1]:80") == ("::1", 80)
    for wrong in ("", "host", "host:", "host:http", "1:99999"):
        with pytest.raises(InvalidSpec, match="no address"):
            proxy.address(wrong)
    for wrong in ("localhost:8000", "ftp://x", "http://", "http://x:y", "http://x?a=b"):
        with pytest.raises(InvalidSpec, match="--upstream"):
            proxy.upstream_url(wrong)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_records_requests_and_no_text(
    upstream: Upstream, tmp_path: Path, ending: signal.Signals
) -> None:
    out = tmp_path / "requests.csv.gz"
    command = [sys.executable, "-m", "rapgym", "record", "--out", str(out), "--json"]
    process = subprocess.Popen(
        [*command, "--quiet", "--proxy", "0", "--upstream", upstream.url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    listening = process.stderr.readline()
    assert listening.startswith("listening on http://127.0.0.1:")
    port = int(listening.rpartition(":")[2])
    for path in ("/plain/v1/completions", "/mutestream/v1/completions"):
        with asked(port, path) as answer:
            answer.read()
    work = tmp_path / "requests.csv.gz.recording"
    while work.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        time.sleep(0.02)
    for text in (SECRET, "reply", "two"):
        assert text not in work.read_text()
    process.send_signal(ending)
    printed, _ = process.communicate()
    if ending == signal.SIGKILL:
        printed = subprocess.run(
            [*command, "--finish"], check=True, capture_output=True, text=True
        ).stdout
    summary = json.loads(printed)
    assert (summary["rows"], summary["estimated_rows"], summary["source"]) == (2, 1, "proxy")
    found = read_requests(out, "")
    assert found.prompt_tokens.tolist() == [11, -(-len(SECRET) // 4)]
    assert found.output_tokens.tolist() == [3, 2]
    assert 0 <= found.arrival_s[0] <= found.arrival_s[1]
    assert list(tmp_path.iterdir()) == [out]
