"""A small proxy before an OpenAI-compatible server: it passes everything on and notes lengths.

What is noted of a request is when it came and how many tokens it and its answer had; no text. It is
made for recording on one's own machine: one thread a connection, a new connection to the server for
each request, answers uncompressed.
"""

import http.client
import json
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import SplitResult, urlsplit

from rapgym.errors import InvalidSpec
from rapgym.files import limits
from rapgym.recorder.answer_usage import Answer, Lengths, prompt_characters

COUNTED = ("/completions", "/responses", "/messages")  # how paths that are noted end
UPSTREAM_TIMEOUT_S = 3600.0  # a long answer that is not streamed says nothing until it is whole
IDLE_S = 300.0  # of a client's connection
PIECE_BYTES = 64 << 10
# Of one connection, not of the message (RFC 9110, 7.6.1); lengths and codings are set anew.
HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade", "expect", "host", "content-length", "accept-encoding",
}  # fmt: skip

_LENGTH = re.compile(rf"[0-9]{{1,{limits.LENGTH_DIGITS}}}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,%d})[ \t]*(?:;[^\r\n]*)?\r?\n" % limits.LENGTH_DIGITS)

Note = Callable[[float, Lengths], None]  # seconds since the recording began, and tokens


class _ClientGone(Exception):
    """The client does not read its answer any more."""


def address(listen: str) -> tuple[str, int]:
    """Host and port of `PORT` (then on this machine alone), `HOST:PORT` or `[V6]:PORT`.

    Raises:
        InvalidSpec: it is neither.
    """
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise InvalidSpec(f"{listen!r} is no address to listen on: it is PORT or HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def upstream_url(url: str) -> SplitResult:
    """The server's address.

    Raises:
        InvalidSpec: it is no http or https URL.
    """
    try:
        found = urlsplit(url)
        is_url = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        is_url = False
    if not is_url or found.query or found.fragment:
        raise InvalidSpec(f"--upstream {url!r} is no URL like http://localhost:8000")
    return found


class _Refused(Exception):
    """Status and message of an answer of the proxy's own."""


def _told_once(answer: http.client.HTTPResponse) -> http.client.HTTPResponse:
    """An answer that says in one way alone how long it is.

    Raises:
        ValueError: who reads it after the proxy could take it for another, or for two.
    """
    lengths = answer.headers.get_all("Content-Length", [])
    if len(lengths) + len(answer.headers.get_all("Transfer-Encoding", [])) > 1 or not all(
        map(_LENGTH.fullmatch, lengths)
    ):
        raise ValueError("it tells the length of its answer in two ways, or in none")
    return answer


class Proxy(ThreadingHTTPServer):
    """Listens once it is made; `serve_forever` serves, `drain` waits for what is being answered.

    Args:
        elapsed_s: the recording's clock.
        note: called, from the thread that served it, with each request that was answered.
    """

    daemon_threads = True

    def __init__(
        self, listen: tuple[str, int], upstream: str, elapsed_s: Callable[[], float], note: Note
    ) -> None:
        self.upstream, self.elapsed_s, self.note = upstream_url(upstream), elapsed_s, note
        self.under_way = 0
        self.fault: OSError | None = None  # what keeps requests from being noted
        self.lock = threading.Lock()
        if ":" in listen[0]:
            self.address_family = socket.AF_INET6
        super().__init__(listen, _Handler)

    def server_bind(self) -> None:
        """As the base class does, without asking the network what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def drain(self, seconds: float) -> int:
        """Wait until nothing is being answered, but no longer; what is left is returned."""
        until_s = time.monotonic() + seconds
        while self.under_way and time.monotonic() < until_s:
            time.sleep(0.02)
        return self.under_way

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks its connection is nothing to print a trace of."""

    def connection(self) -> http.client.HTTPConnection:
        """A new connection to the server."""
        kind = (
            http.client.HTTPSConnection
            if self.upstream.scheme == "https"
            else http.client.HTTPConnection
        )
        assert self.upstream.hostname is not None
        return kind(self.upstream.hostname, self.upstream.port, timeout=UPSTREAM_TIMEOUT_S)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    disable_nagle_algorithm = True  # a streamed token goes on at once
    server: Proxy

    def log_message(self, *_: Any, **__: Any) -> None:
        """Nothing: what is noted is in the recording."""

    def serve(self) -> None:
        """One request, of whatever method."""
        arrival_s = self.server.elapsed_s()
        with self.server.lock:
            self.server.under_way += 1
        try:
            self._pass_on(arrival_s)
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def _pass_on(self, arrival_s: float) -> None:
        connection = self.server.connection()
        try:
            body = self._body()
            self._answer(self._ask(connection, body), body, arrival_s)
        except _Refused as error:
            self._refuse(*error.args)
        finally:
            connection.close()

    def _body(self) -> bytes:
        codings, lengths = (
            self.headers.get_all(name, []) for name in ("Transfer-Encoding", "Content-Length")
        )
        if not self.path.startswith("/") or self.headers.get("Upgrade"):
            raise _Refused(501, "the proxy passes on plain HTTP requests alone")
        if len(codings) + len(lengths) > 1 or any(each.lower() != "chunked" for each in codings):
            raise _Refused(400, "the length of the request is told in two ways, or in none")
        if codings:
            try:
                return b"".join(self._chunks())
            except ValueError as error:
                raise _Refused(400, f"the request's chunks cannot be read: {error}") from error
        if not lengths:
            return b""
        if not _LENGTH.fullmatch(lengths[0]) or int(lengths[0]) > limits.BODY:
            raise _Refused(413, "the request's length is none, or too large for the proxy")
        body = self.rfile.read(int(lengths[0]))
        if len(body) != int(lengths[0]):
            raise _Refused(400, "the request was cut short")
        return body

    def _chunks(self) -> Iterator[bytes]:
        total = 0
        while True:
            found = _CHUNK.fullmatch(self.rfile.readline(1024))
            if found is None:
                raise ValueError("a chunk does not say how long it is")
            size = int(found[1], 16)
            total += size
            if total > limits.BODY:
                raise ValueError("it is too large for the proxy")
            if size == 0:
                for _ in range(limits.TRAILERS):  # they are not passed on
                    if not self.rfile.readline(65536).strip():
                        return
                raise ValueError("there is no end of lines behind them")
            chunk = self.rfile.read(size)
            if len(chunk) != size or self.rfile.readline(8) not in (b"\r\n", b"\n"):
                raise ValueError("a chunk is not as long as it says")
            yield chunk

    def _ask(self, connection: http.client.HTTPConnection, body: bytes) -> http.client.HTTPResponse:
        path = self.server.upstream.path.rstrip("/") + self.path
        try:
            connection.putrequest(self.command, path, skip_accept_encoding=True)
            for name, value in self._end_to_end(self.headers.items()):
                connection.putheader(name, value)
            connection.putheader("Accept-Encoding", "identity")
            if body or self.command in ("POST", "PUT", "PATCH"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            return _told_once(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _Refused(502, f"the server behind it does not answer: {error}") from error

    def _end_to_end(self, headers: Any) -> Iterator[tuple[str, str]]:
        named = {part.strip().lower() for part in self.headers.get("Connection", "").split(",")}
        return ((k, v) for k, v in headers if k.lower() not in HOP_BY_HOP | named)

    def _answer(self, answer: http.client.HTTPResponse, body: bytes, arrival_s: float) -> None:
        """Send what the server answers, as it comes, and note how long it was."""
        path = urlsplit(self.path).path.rstrip("/")
        counts = self.command == "POST" and path.endswith(COUNTED) and answer.status < 400
        kind = answer.headers.get_content_type()
        read = Answer(is_stream=kind == "text/event-stream")
        try:
            self._send(answer, read.feed if counts else lambda piece: None)
        except _ClientGone:
            self.close_connection = True  # what it was sent did take memory: it is noted below
        except (OSError, http.client.HTTPException):
            self.close_connection = (
                True  # without its last chunk, so that the client sees it was cut
            )
        finally:
            if counts:
                read.end()
                lengths = read.lengths(prompt_characters(body))
                if lengths.prompt_tokens + lengths.output_tokens:
                    self._note(arrival_s, lengths)

    def _note(self, arrival_s: float, lengths: Lengths) -> None:
        try:
            self.server.note(arrival_s, lengths)
        except OSError as error:
            self.server.fault = self.server.fault or error

    def _send(self, answer: http.client.HTTPResponse, feed: Callable[[bytes], None]) -> None:
        length = answer.headers.get("Content-Length")
        empty = self.command == "HEAD" or answer.status in (204, 304)
        chunked = length is None and not empty and self.request_version != "HTTP/1.0"
        self.send_response_only(answer.status, answer.reason)
        for name, value in self._end_to_end(answer.headers.items()):
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", length)
        elif chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif not empty:
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self._write_headers()
        while not empty and (piece := answer.read1(PIECE_BYTES)):
            feed(piece)
            self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if answer.length:  # still to come when the server went
            raise http.client.IncompleteRead(b"", answer.length)
        if chunked:
            self._write(b"0\r\n\r\n")

    def _write_headers(self) -> None:
        try:
            self.end_headers()
        except OSError as error:
            raise _ClientGone from error

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
        except OSError as error:
            raise _ClientGone from error

    def _refuse(self, status: int, message: str) -> None:
        """An error of the proxy's own, in the form of OpenAI's, after which the connection ends."""
        body = json.dumps(
            {"error": {"message": f"rapgym record: {message}", "type": "proxy_error"}}
        )
        self.close_connection = True
        try:
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body.encode())))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body.encode())
        except OSError:
            pass


for _method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
    setattr(_Handler, f"do_{_method}", _Handler.serve)  # where http.server looks for them
