"""Files as a stranger may send them: bytes changed, lines shuffled, JSON that says the unbelievable."""

import gzip
import json
import lzma
from typing import Any

from hypothesis import strategies as st

NASTY: list[Any] = [
    None, True, -1, 0, 1e308, 10**400, 2**63, "", "\x00", "../../etc/passwd", "<script>alert(1)</script>",
    "a" * 5000, [], {}, [[[[]]]], float("nan"), "1e999", "\x1b[2J",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """These bytes after one to four changes."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.integers(0, 5))
        if kind == 0 and content:
            changed = content[place] ^ draw(st.integers(1, 255))
            content = content[:place] + bytes([changed]) + content[place + 1 :]
        elif kind == 1:
            content = content[:place] + draw(st.binary(max_size=8)) + content[place:]
        elif kind == 2:
            content = content[:place] + content[place + draw(st.integers(1, 64)) :]
        elif kind == 3:
            content = content[:place]
        elif kind == 4:
            content = content[:place] + content[: draw(st.integers(0, 64))] + content[place:]
        else:
            put = draw(st.sampled_from([b",", b"\n", b"\x00", b"-", b"9" * 30, b"nan", b"\xff\xfe",
                                        b"1e999", b"[" * 3000, b'"', b"{}", b"inf"]))  # fmt: skip
            content = content[:place] + put + content[place + len(put) :]
    return content


@st.composite
def changed_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """These lines with one dropped, doubled, swapped or with another cell."""
    lines = content.split(b"\n")
    one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        del lines[one]
    elif kind == 1:
        lines.insert(other, lines[one])
    elif kind == 2:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        cells = lines[one].split(b",")
        nasty = draw(st.sampled_from(NASTY))
        said = json.dumps(nasty).encode() if nasty != 10**400 else b"1" + b"0" * 400
        cells[draw(st.integers(0, len(cells) - 1))] = said
        lines[one] = b",".join(cells)
    return b"\n".join(lines)


@st.composite
def changed_json(draw: st.DrawFn, found: Any) -> Any:
    """A JSON value with one entry somewhere in it replaced, removed or doubled."""
    found = json.loads(json.dumps(found))
    place = found
    for _ in range(draw(st.integers(0, 6))):
        inner = [*place.values()] if isinstance(place, dict) else place
        nested = [value for value in inner if isinstance(value, dict | list) and value]
        if not nested:
            break
        place = draw(st.sampled_from(nested))
    if not place:
        return draw(st.sampled_from(NASTY))
    key = draw(st.sampled_from([*place])) if isinstance(place, dict) else draw(
        st.integers(0, len(place) - 1)
    )  # fmt: skip
    if draw(st.integers(0, 3)) == 0:
        del place[key]
    else:
        place[key] = draw(st.sampled_from(NASTY))
    return found


def headed(content: bytes) -> st.SearchStrategy[bytes]:
    """A packed file of a JSON header and lines: damaged packed, unpacked, in a line, in its header."""
    is_xz = content.startswith(b"\xfd7zXZ\0")
    text = lzma.decompress(content) if is_xz else gzip.decompress(content)
    first, rest = text.split(b"\n", 1)

    def packed(text: bytes) -> bytes:
        return lzma.compress(text, preset=0) if is_xz else gzip.compress(text, 1)

    def with_header(found: Any) -> bytes:
        return packed(b"# " + json.dumps(found).encode() + b"\n" + rest)

    return (
        damaged(content)
        | damaged(text).map(packed)
        | changed_lines(text).map(packed)
        | changed_json(json.loads(first[2:])).map(with_header)
    )


def plain(content: bytes) -> st.SearchStrategy[bytes]:
    """A file of lines."""
    return damaged(content) | changed_lines(content)


def json_file(content: bytes) -> st.SearchStrategy[bytes]:
    """A file of one JSON value."""
    changed = changed_json(json.loads(content)).map(lambda found: json.dumps(found).encode())
    return damaged(content) | changed


def json_lines(content: bytes) -> st.SearchStrategy[bytes]:
    """A file of one JSON value a line; what cannot be read as one is left as it is."""
    lines = content.splitlines()

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        place = draw(st.integers(0, len(lines) - 1))
        try:
            said = json.dumps(draw(changed_json(json.loads(lines[place])))).encode()
        except ValueError:
            said = b"{}"
        return b"\n".join([*lines[:place], said, *lines[place + 1 :], b""])

    return plain(content) | changed()
