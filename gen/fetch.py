"""One file from the network, asked for by name: resumable, bounded, and kept only if its sum is the known one."""

import hashlib
import http.client
import ipaddress
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from .messages import one_line, printable

CHUNK = 1 << 20
MAX_BYTES = 1 << 30  # for a file whose size is not known to the byte; the largest public one has 382 MB
LIMIT_S = 60.0  # without a byte
MAGIC = {".pkl": (b"\x80",), ".pt": (b"PK\x03\x04", b"\x80"), ".onnx": (b"\x08",)}


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str,
    size: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Writes what `url` holds to `target`, which appears whole and checked, or not at all.

    What came is kept in TARGET.partial when the connection breaks, and the next call goes on from there.

    Args:
        url: https; http only from this machine itself.
        sha256: the file's sum, 64 hexadecimal digits.
        size: its bytes, where they are known.
        max_bytes: never more than this where they are not.
        progress: called with the bytes there are, and the bytes there will be (None while unknown).

    Raises:
        ValueError: a wrong address, another file, or one that is too large; one line.
        OSError: the network or the disk failed; what came is kept.
    """
    _check_address(url)
    if target.exists():
        if sum_of(target) == sha256:
            return
        raise ValueError(f"{target}: there is another file of this name; move it away or choose another --out")
    partial = target.with_name(target.name + ".partial")
    limit = size if size is not None else max_bytes
    start = partial.stat().st_size if partial.exists() else 0
    if start > limit:
        partial.unlink()
        start = 0
    if start == 0 or start != size:
        _receive(url, partial, start, size=size, limit=limit, progress=progress)
    if (found := sum_of(partial)) != sha256:
        partial.unlink()
        raise ValueError(f"{url}: expected the file with sha256 {sha256}, found {found}; nothing is kept")
    partial.replace(target)


def sum_of(path: Path) -> str:
    """The file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _receive(
    url: str, partial: Path, start: int, *, size: int | None, limit: int, progress: Callable[[int, int | None], None]
) -> None:
    """Fills `partial` from byte `start` on, or anew where the server cannot go on."""
    request = urllib.request.Request(url, headers={"User-Agent": "mattesmith", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer: Any = urllib.request.build_opener(_SafeRedirects).open(request, timeout=LIMIT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                partial.unlink()
                raise ValueError(f"{url}: what came before does not belong to it; run the same command again") from None
            raise OSError(f"{url}: the server says {error.code} {printable(str(error.reason), 60)}") from error
    except OSError as error:
        raise OSError(f"{url}: no connection ({printable(str(error), 100)}); try again") from error
    except http.client.HTTPException as error:
        raise OSError(
            f"{url}: expected an answer in HTTP, found another ({type(error).__name__}: {one_line(error)}); "
            "see whether the address is right"
        ) from error
    with answer:
        resumes = answer.status == http.HTTPStatus.PARTIAL_CONTENT and start > 0
        if resumes and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise OSError(f"{url}: the server goes on at another place than asked; remove {partial} and try again")
        done = start if resumes else 0
        announced = answer.headers.get("Content-Length", "")
        total = done + int(announced) if announced.isdecimal() else size
        first = _read(answer, url, done)
        if not resumes:
            _check_head(url, first, partial.with_suffix("").suffix)  # of NAME.pkl.partial
        if total is not None and (total > limit or (size is not None and total != size)):
            raise ValueError(f"{url}: expected {_bytes(size, limit)}, the server announces {total}")
        with partial.open("ab" if resumes else "wb") as file:
            block = first
            while block:
                done += len(block)
                if done > limit:
                    break
                file.write(block)
                progress(done, total)
                block = _read(answer, url, done)
    if done > limit:
        partial.unlink()
        raise ValueError(f"{url}: expected {_bytes(size, limit)}, found more; nothing is kept")
    if total is not None and done < total:
        raise OSError(f"{url}: the connection broke after {done} of {total} bytes; run the same command to go on")


def _read(answer: Any, url: str, done: int) -> bytes:
    """The next bytes of the answer; none at its end."""
    try:
        return bytes(answer.read(CHUNK))
    except (http.client.HTTPException, OSError) as error:
        raise OSError(
            f"{url}: the connection broke after {done} bytes ({type(error).__name__}); run the same command to go on"
        ) from error


def _bytes(size: int | None, limit: int) -> str:
    return f"a file of {size} bytes" if size is not None else f"at most {limit} bytes"


def _check_head(url: str, head: bytes, suffix: str) -> None:
    """Refuses what does not begin as the file does; most often a page that says why it was not sent."""
    begins = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if begins.startswith(b"<"):
        found = "a web page (HTML)"
    elif not begins:
        found = "nothing"
    elif suffix in MAGIC and not head.startswith(MAGIC[suffix]):
        found = f"bytes that begin with {head[:8].hex(' ')}"
    else:
        return
    raise ValueError(f"{url}: expected a {suffix.removeprefix('.') or 'weight'} file, found {found}; nothing is kept")


def _check_address(url: str) -> None:
    """https anywhere; http only from this machine, where nobody stands between."""
    if foreign := re.search(r"[^!-~]", url):
        code = quote(foreign[0], errors="surrogateescape")  # as a command line keeps bytes that are not UTF-8
        raise ValueError(
            f"{printable(url)}: expected an address in ASCII without white space; write {foreign[0]!r} as {code}"
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{printable(url)}: not an address ({printable(str(error), 60)})") from error
    if not host or parts.scheme not in ("https", "http"):
        raise ValueError(f"{printable(url)}: expected an address that begins with https://")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(f"{printable(url)}: only https addresses are fetched from other machines")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a server only to where the address itself would have been allowed."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """As the library's, after a look at the new address."""
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
