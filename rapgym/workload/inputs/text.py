"""Text of a file however it is packed and encoded, and the objects, rows or lines that stand in it."""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from rapgym.errors import DataUnavailable, InvalidTrace, RapgymError
from rapgym.files import incoming, json_text, limits

Parsed = TypeVar("Parsed")
Shape = Literal["lines", "json", "table"]
_HEAD = 64 << 10  # characters by which a file's shape is told
_ARRAY = re.compile(r"\[\s*[\[{\]]")
_COLUMN = re.compile(r"[^\W\d][\w .%/()\[\]-]{0,60}")
_KUBERNETES = re.compile(r"\d{4}-\d\d-\d\dT\S+ (?:stdout|stderr) ([FP]) ")


def pieces(path: Path, most_bytes: int) -> Iterator[str]:
    """A file's text, piece by piece: unpacked by its content, decoded by its byte order mark.

    Args:
        most_bytes: of it unpacked.

    Raises:
        DataUnavailable: it cannot be read or unpacked.
        MissingExtra: it is packed with zstd, which this Python does not know.
    """
    try:
        with incoming.opened(path) as file:
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            whole = incoming.unpacked(file, incoming.packing_of(file), most_bytes)
            for piece in incoming.utf8(whole):
                if text := decoder.decode(piece):
                    yield text
            yield decoder.decode(b"", final=True)
    except RapgymError:
        raise
    except (OSError, ValueError) as error:
        raise DataUnavailable(f"{path} cannot be read: {error}") from error


def read(path: Path, most_bytes: int, parse: Callable[[Iterator[str]], Parsed]) -> Parsed:
    """What `parse` makes of a file's `pieces`; where their text cannot be read, that is said of the file.

    Raises:
        DataUnavailable: it cannot be read; and what `parse` raises on purpose.
    """
    try:
        return parse(pieces(path, most_bytes))
    except RapgymError:
        raise
    except ValueError as error:
        raise DataUnavailable(f"{path} cannot be read: {error}") from error


@dataclass(slots=True)
class Text:
    """A file's text, and what it looks like."""

    shape: Shape
    head: str  # its first line that says something
    whole: Iterator[str]  # pieces

    @classmethod
    def of(cls, found: Iterable[str]) -> "Text":
        """Look at the beginning of some text."""
        rest = iter(found)
        taken: list[str] = []
        size = 0
        for piece in rest:
            taken.append(piece)
            size += len(piece)
            if size >= _HEAD:
                break
        head = "".join(taken)
        said = [line for line in _split(head[: 4 * _HEAD]) if line.strip() and line[:1] != "#"]
        first = said[0].strip() if said else ""
        return cls(_shape(head.lstrip(), first), first, chain([head], rest))


def _shape(head: str, first: str) -> Shape:
    if _ARRAY.match(head):
        return "json"
    if head.startswith("{"):
        is_whole_line = "\n" in head or len(head) < _HEAD
        if not is_whole_line or (first[-1:] in "{[," and not _is_object(first)):
            return "json"
        return "lines"
    cells = [cell.strip() for cell in header(first)]
    is_table = len(cells) > 1 and all(_COLUMN.fullmatch(cell) for cell in cells)
    return "table" if is_table else "lines"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json_text.parsed(text), dict)
    except ValueError:
        return False


def separator(first: str) -> str:
    """What stands between the cells of a table, by its first line."""
    return max(",;\t", key=first.count)


def header(first: str) -> list[str]:
    """The cells of a table's first line; one where it is no table."""
    try:
        return next(csv.reader([first], delimiter=separator(first), skipinitialspace=True), [])
    except csv.Error:
        return []


def _split(text: str) -> list[str]:
    return (
        text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if "\r" in text
        else text.split("\n")
    )


def lines(found: Iterator[str]) -> Iterator[str]:
    """The lines of a text, without those that are longer than any log's.

    Raises:
        ValueError: a line has no end.
    """
    left, endless = "", 0
    for piece in found:
        whole, newline, rest = piece.rpartition("\n")
        if newline:
            if endless:
                whole, endless = whole.partition("\n")[2], 0
            for line in (left + whole).split("\n"):
                yield line.removesuffix("\r")
            left = rest
        elif endless:
            endless += len(piece)
        else:
            left += piece
        if len(left) > limits.ACCESS_LINE:
            left, endless = "", len(left)
        if endless > limits.ACCESS_ENDLESS:
            raise ValueError(f"a line of it has no end in {incoming.size(limits.ACCESS_ENDLESS)}")
    if left:
        yield left.removesuffix("\r")


def unwrapped(found: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Number and text of each line, without what Docker or Kubernetes put around it, and their time."""
    begun = ""  # of a line that they cut
    for number, line in enumerate(found, 1):
        logged = ""
        if line.startswith('{"log":'):
            try:
                around = json_text.parsed(line)
            except ValueError:
                around = {}
            if isinstance(around, dict) and isinstance(around.get("log"), str):
                line, logged = around["log"], str(around.get("time", ""))
                if not line.endswith("\n") and len(begun) < limits.ACCESS_LINE:
                    begun += line
                    continue
        elif match := _KUBERNETES.match(line):
            logged, line = line.partition(" ")[0], line[match.end() :]
            if match[1] == "P" and len(begun) < limits.ACCESS_LINE:
                begun += line
                continue
        yield number, begun + line.rstrip("\n"), logged
        begun = ""
    if begun:
        yield number, begun, ""


def rows(text: Text, name: str) -> Iterator[list[str]]:
    """The cells of a table's rows, its header first.

    Raises:
        InvalidTrace: it is no table.
    """
    told = (line for line in lines(text.whole) if line.strip() and not line.startswith("#"))
    try:
        for row in csv.reader(
            told, delimiter=separator(text.head), skipinitialspace=True, strict=True
        ):
            yield [cell.strip() for cell in row]
    except csv.Error as error:
        raise InvalidTrace(f"{name} is no table that can be read: {error}") from error


def values(found: Iterator[str]) -> Iterator[Any]:
    """JSON values one after the other, however they are laid out; of an array, each of its values.

    Text is decoded value by value, and a value that is cut is tried again only once twice as much is
    there, so that it takes no time with the square of its length.

    A value that is damaged in a line of its own is `Damaged`.

    Raises:
        ValueError: the text is none of JSON, or a value larger than any.
    """
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    buffer, at, ended, in_array = "", 0, False, False
    wanted = 1
    while True:
        while not ended and len(buffer) - at < wanted:
            piece = next(found, "")
            ended = not piece
            buffer, at = buffer[at:] + piece, 0
        at = _WHITE.match(buffer, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if at == len(buffer):
            if ended:
                return
            wanted = 1
            continue
        if not in_array and buffer[at] == "[":
            in_array, at = True, at + 1
            continue
        if in_array and buffer[at] == "]":
            in_array, at = False, at + 1
            continue
        # What fitted into one piece holds no more values than JSON_VALUES; a longer value may.
        if wanted > 1 and sum(buffer.count(c, at) for c in ",[{") > limits.JSON_VALUES:
            raise ValueError(f"one value of it holds more than {limits.JSON_VALUES} values")
        try:
            value, at = decoder.raw_decode(buffer, at)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except ValueError as error:
            is_cut = isinstance(error, json.JSONDecodeError) and (
                error.msg.startswith("Unterminated") or error.pos > len(buffer) - 16
            )
            wanted = 2 * (len(buffer) - at)
            if is_cut and not ended and wanted <= 2 * limits.ACCESS_JSON:
                continue
            if is_cut and not ended:
                raise ValueError(
                    f"a value of it is larger than {incoming.size(limits.ACCESS_JSON)}"
                ) from None
            newline = buffer.find("\n", at)
            if in_array or newline < 0:
                raise ValueError(f"it is no whole JSON: {str(error)[:120]}") from None
            value, at = Damaged(str(error)[:120]), newline + 1
        wanted = 1
        yield value


_WHITE = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Damaged:
    """In place of a value that cannot be read, where others follow."""

    fault: str


def _no_constant(constant: str) -> Any:
    return None  # NaN and infinities: nothing is known
