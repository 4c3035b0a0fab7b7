"""A fetched file is the one with the known sum, whole, or not there; what came of it is not fetched twice."""

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mattesmith.gen.fetch import fetch

CONTENT = b"\x80" + bytes(range(256)) * 40
SUM = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """How the server on this machine behaves, and what it was asked."""

    content: bytes = CONTENT
    resumes: bool = True
    announces: bool = True  # the length
    breaks_after: int | None = None  # bytes of one answer
    status: int = 200
    location: str = ""
    starts: int | None = None  # where it says it goes on, if elsewhere than asked
    ranges: list[str | None] = field(default_factory=list)
    raw: bytes = b""  # said instead of an answer
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            if state.raw:
                self.wfile.write(state.raw)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.resumes else 0
            status = state.status if state.status != 200 else 206 if start else 200
            body = state.content[start:]
            if start and start >= len(state.content):
                status, body = 416, b""
            self.send_response(status)
            if state.location:
                self.send_header("Location", state.location)
            if start:
                begins = state.starts if state.starts is not None else start
                self.send_header("Content-Range", f"bytes {begins}-{len(state.content) - 1}/{len(state.content)}")
            if state.announces:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.breaks_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{listening.server_port}/net.pkl"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "net.pkl"


def partial(target: Path) -> Path:
    return target.with_name("net.pkl.partial")


def test_a_file_comes_whole_with_its_progress(server: Server, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(server.url, target, sha256=SUM, size=len(CONTENT), progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT and seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in target.parent.iterdir()] == ["net.pkl"] and server.ranges == [None]


def test_a_file_that_is_there_is_not_fetched_again_and_another_is_left_alone(server: Server, target: Path) -> None:
    target.write_bytes(CONTENT)
    fetch(server.url, target, sha256=SUM)
    target.write_bytes(b"years of work")
    with pytest.raises(ValueError, match=r"net\.pkl: there is another file of this name"):
        fetch(server.url, target, sha256=SUM)
    assert target.read_bytes() == b"years of work" and not server.ranges


@pytest.mark.parametrize("announces", [True, False])
def test_a_broken_connection_keeps_what_came_and_the_next_call_goes_on(
    announces: bool, server: Server, target: Path
) -> None:
    server.breaks_after, server.announces = 1000, announces
    with pytest.raises(OSError, match=r"the connection broke after 1000 of 10241 bytes; run the same command to go on"):
        fetch(server.url, target, sha256=SUM, size=len(CONTENT))
    assert partial(target).read_bytes() == CONTENT[:1000] and not target.exists()
    server.breaks_after = None
    fetch(server.url, target, sha256=SUM, size=len(CONTENT))
    assert target.read_bytes() == CONTENT and server.ranges == [None, "bytes=1000-"]
    assert not partial(target).exists()


def test_a_server_that_cannot_go_on_starts_anew(server: Server, target: Path) -> None:
    server.resumes = False
    partial(target).write_bytes(CONTENT[:1000])
    fetch(server.url, target, sha256=SUM)
    assert target.read_bytes() == CONTENT and server.ranges == ["bytes=1000-"]


def test_a_server_that_goes_on_elsewhere_is_not_believed(server: Server, target: Path) -> None:
    server.starts = 7
    partial(target).write_bytes(CONTENT[:1000])
    with pytest.raises(OSError, match="goes on at another place than asked"):
        fetch(server.url, target, sha256=SUM)
    assert partial(target).read_bytes() == CONTENT[:1000]


def test_what_came_whole_before_is_only_checked(server: Server, target: Path) -> None:
    partial(target).write_bytes(CONTENT)
    fetch(server.url, target, sha256=SUM, size=len(CONTENT))
    assert target.read_bytes() == CONTENT and not server.ranges


def test_a_remainder_of_another_file_is_dropped(server: Server, target: Path) -> None:
    partial(target).write_bytes(b"x" * 20_000)
    with pytest.raises(ValueError, match="run the same command again"):
        fetch(server.url, target, sha256=SUM)
    assert not partial(target).exists()
    partial(target).write_bytes(b"\x80" * 1000)
    with pytest.raises(ValueError, match=rf"expected the file with sha256 {SUM}, found [0-9a-f]{{64}}"):
        fetch(server.url, target, sha256=SUM)
    partial(target).write_bytes(b"x" * 20_000)
    fetch(server.url, target, sha256=SUM, size=len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_a_wrong_sum_leaves_nothing(server: Server, target: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match=f"expected the file with sha256 {SUM}, found "):
        fetch(server.url, target, sha256=SUM)
    assert not list(target.parent.iterdir())


def test_a_page_instead_of_the_file_is_named_and_costs_nothing_that_came(server: Server, target: Path) -> None:
    server.content, server.resumes = b"\n<!DOCTYPE html><html>quota exceeded</html>", False
    partial(target).write_bytes(CONTENT[:1000])
    with pytest.raises(ValueError, match=r"expected a pkl file, found a web page \(HTML\)"):
        fetch(server.url, target, sha256=SUM, size=len(CONTENT))
    assert partial(target).read_bytes() == CONTENT[:1000] and not target.exists()


@pytest.mark.parametrize(
    ("content", "found"), [(b"PK\x03\x04 something", "bytes that begin with 50 4b 03 04"), (b"", "found nothing")]
)
def test_what_begins_otherwise_is_refused(content: bytes, found: str, server: Server, target: Path) -> None:
    server.content = content
    with pytest.raises(ValueError, match=found):
        fetch(server.url, target, sha256=SUM)
    assert not list(target.parent.iterdir())


def test_too_large_a_file_is_refused_before_it_comes_or_when_it_does(server: Server, target: Path) -> None:
    server.content = CONTENT + b"more"
    with pytest.raises(ValueError, match="expected a file of 10241 bytes, the server announces 10245"):
        fetch(server.url, target, sha256=SUM, size=len(CONTENT))
    with pytest.raises(ValueError, match="expected at most 5000 bytes, the server announces 10245"):
        fetch(server.url, target, sha256=SUM, max_bytes=5000)
    server.announces = False
    with pytest.raises(ValueError, match="expected a file of 10241 bytes, found more"):
        fetch(server.url, target, sha256=SUM, size=len(CONTENT))
    assert not list(target.parent.iterdir())


def test_a_server_that_refuses_or_is_not_there_is_named(server: Server, target: Path) -> None:
    server.status = 404
    with pytest.raises(OSError, match="the server says 404 Not Found"):
        fetch(server.url, target, sha256=SUM)
    with pytest.raises(OSError, match="no connection"):
        fetch("http://127.0.0.1:9/net.pkl", target, sha256=SUM)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize(
    "url",
    ["http://example.org/net.pkl", "ftp://example.org/net.pkl", "file:///etc/passwd", "net.pkl", "", "https://", "http://[::1"],
)  # fmt: skip
def test_only_https_is_fetched_from_other_machines(url: str, target: Path) -> None:
    with pytest.raises(ValueError, match=r"https|not an address") as caught:
        fetch(url, target, sha256=SUM)
    assert "\n" not in str(caught.value) and not list(target.parent.iterdir())


@pytest.mark.parametrize("raw", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"])
def test_an_answer_that_is_not_http_is_one_clear_line(raw: bytes, server: Server, target: Path) -> None:
    server.raw = raw
    with pytest.raises(OSError, match=rf"{server.url}: expected an answer in HTTP, found another \(\w+: ") as caught:
        fetch(server.url, target, sha256=SUM)
    assert "\n" not in str(caught.value) and not list(target.parent.iterdir())


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("https://example.org/my net.pkl", "write ' ' as %20"),
        ("https://example.org/net.pkl\n", r"write '\n' as %0A"),
        ("https://example.org/n\u00e9t.pkl", "write '\u00e9' as %C3%A9"),
        ("https://example.org/n\udce9t.pkl", r"write '\udce9' as %E9"),  # a byte of a command line that is not UTF-8
    ],
)
def test_letters_that_no_address_has_are_named(url: str, advice: str, target: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)) as caught:
        fetch(url, target, sha256=SUM)
    assert str(caught.value).startswith("https://example.org/") and str(caught.value).isprintable()


def test_a_redirection_goes_only_where_an_address_may(server: Server, target: Path) -> None:
    server.status, server.location = 302, "http://example.org/net.pkl"
    with pytest.raises(ValueError, match=r"http://example\.org/net\.pkl: only https"):
        fetch(server.url, target, sha256=SUM)
    server.location = "file:///etc/passwd"
    with pytest.raises((ValueError, OSError), match=r"https|403|302"):
        fetch(server.url, target, sha256=SUM)
