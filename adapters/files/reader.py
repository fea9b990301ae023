"""Reads what a vendor's program wrote: headers of CSV, TIFF and HDF5, values of CSV and TIFF. Run as a program, in a process of its own.

    python -m adapters.files.reader [--memory BYTES]

Foreign files are parsed here and nowhere else: little memory, no file may be written, and whoever started it (`readers`) ends it when it
takes too long. One request a line on standard input (JSON: ``path``, ``want``, and what that needs), one answer each on standard output: a
line of JSON, then the bytes of the arrays that it names, one after the other, in C order. A file that cannot be read is an answer too.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if sys.platform != "win32":
    import resource

MEMORY = 1 << 30
MOST_FACTS = 100
MOST_TEXT = 500
HEAD_BYTES = 1 << 20
"""So much of a text file is looked at for its header."""
MOST_CELL = 64
ENCODINGS = ("utf-8-sig", "cp932", "latin-1")
Fact = str | int | float
Arrays = list[tuple[dict[str, Any], npt.NDArray[Any]]]
"""What is said of an array beside its dtype and shape, and the array."""

COMMENTS = ("#", "%", "!")
_PAIR = re.compile(r"^[#;%!\s]*([^\W\d][^:=,;\t]{0,59}?)\s*[:=]\s*(.+)$")
_UNIT = re.compile(r"^(.*?)\s*[(\[]([^()\[\]]*)[)\]]\s*$")


def limit(memory: int) -> None:
    """Limit this process for good: bytes of memory beyond what is mapped already, no core dump, no file."""
    if sys.platform != "win32":
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
        mapped = pages * os.sysconf("SC_PAGE_SIZE")
        for kind, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, mapped + memory), (resource.RLIMIT_FSIZE, 0)):
            resource.setrlimit(kind, (value, value))


def facts_of(path: Path, **_: Any) -> tuple[dict[str, Any], Arrays]:
    """What the header of a file says, by its kind; and for images a small picture, ``(h, w)`` or ``(h, w, 3)``."""
    kind = path.suffix.lower()
    if kind in (".tif", ".tiff"):
        return _tiff_facts(path)
    if kind in (".h5", ".hdf5", ".nxs", ".nx", ".hdf", ".cxi"):
        return _hdf5_facts(path)
    table = Table(path)
    facts: dict[str, Fact] = dict(table.pairs)
    facts["columns"] = ", ".join(table.names)[:MOST_TEXT]
    return {"facts": facts}, []


class Table:
    """A text table: comments and pairs, perhaps a line of names, then rows of cells with one delimiter."""

    def __init__(self, path: Path, *, growing: bool = False) -> None:
        """Look at the head; the last line of a file that is ``growing`` may be half a line.

        Raises:
            ValueError: there is no table in it.
        """
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if b"\0" in head:
            raise ValueError("it is no text")
        self.encoding = _encoding(head, whole=len(head) < HEAD_BYTES)
        lines = head.splitlines(keepends=True)
        if (growing or len(head) == HEAD_BYTES) and not head.endswith(b"\n"):
            lines = lines[:-1]
        texts = [line.decode(self.encoding, "replace").strip() for line in lines]
        first = next((n for n in range(len(texts)) if _is_data(texts[n])), None)
        if first is None:
            raise ValueError("it holds no row of numbers")
        self.delimiter = _delimiter(texts[first])
        width = len(self.split(texts[first]))
        names = self.split(texts[first - 1].lstrip("#;%! ")) if first else []
        has_names = len(names) == width and not _is_data(texts[first - 1])
        self.names = [_text(name) for name in names] if has_names else [f"column_{n + 1}" for n in range(width)]
        self.start = sum(len(line) for line in lines[:first])
        """Offset of the first row, in bytes."""
        pairs = (_PAIR.match(text) for text in texts[: max(0, first - has_names)])
        self.pairs = {_text(m[1]): _text(m[2]) for m in pairs if m is not None}
        self.pairs = dict(list(self.pairs.items())[:MOST_FACTS])

    def split(self, line: str) -> list[str]:
        """The cells of a line."""
        if self.delimiter == " ":
            return line.split()
        return [cell.strip() for cell in next(csv.reader([line], delimiter=self.delimiter), [])]


def _encoding(head: bytes, *, whole: bool) -> str:
    for encoding in ENCODINGS:
        try:
            head.decode(encoding)
        except UnicodeDecodeError as error:
            if not whole and len(head) - error.start < 4:
                return encoding
        else:
            return encoding
    return ENCODINGS[-1]


def _delimiter(line: str) -> str:
    return next((each for each in ("\t", ";", ",") if each in line), " ")


def _is_data(line: str) -> bool:
    """Whether a line looks like a row: its last cell, or its first, is a number."""
    if line[:1] in COMMENTS or _PAIR.match(line):
        return False
    cells = [cell.strip().strip('"') for cell in (line.split() if _delimiter(line) == " " else line.split(_delimiter(line)))]
    return bool(cells and cells[0]) and (_number(cells[-1]) is not None or _number(cells[0]) is not None)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _text(value: object) -> str:
    return "".join(c for c in str(value).strip().strip('"') if c.isprintable())[:MOST_TEXT]


def rows_of(path: Path, offset: int = 0, time: str = "", *, growing: bool = False) -> tuple[dict[str, Any], Arrays]:
    """Rows from ``offset`` on (bytes; 0: from the first row), as columns; ``next`` is where the following row will begin.

    A last line without an end is a row too, unless the file is ``growing``.

    Columns of numbers are ``<f8`` (an empty cell is NaN), others ``|S64``. The column ``time`` becomes ``<i8``, UTC ns: it holds ISO 8601
    or seconds of Unix time.

    Raises:
        ValueError: no table, no such column, a time that is none.
    """
    table = Table(path, growing=growing)
    begin = max(offset, table.start)
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read()
    end = data.rfind(b"\n") + 1 if growing else len(data)
    text = io.StringIO(data[:end].decode(table.encoding, "replace"))
    lines = map(str.split, text) if table.delimiter == " " else csv.reader(text, delimiter=table.delimiter)
    rows = [cells for cells in lines if cells and any(cells)]
    wrong = next((n for n, cells in enumerate(rows, 1) if len(cells) != len(table.names)), None)
    if wrong is not None:
        raise ValueError(f"row {wrong} has {len(rows[wrong - 1])} cells and not {len(table.names)}")
    said = {"next": begin + end, "names": table.names, "facts": table.pairs, "rows": len(rows)}
    if time and time not in table.names:
        raise ValueError(f"there is no column {time!r}; there are {', '.join(table.names)}")
    columns: Arrays = []
    for name, cells in zip(table.names, zip(*rows, strict=True) if rows else [()] * len(table.names), strict=True):
        unit = _UNIT.match(name)
        about = {"name": unit[1] if unit else name, "unit": unit[2] if unit else ""}
        columns.append((about | {"time": name == time}, _times(cells) if name == time else _column(cells)))
    return said, columns


def _column(cells: tuple[str, ...]) -> npt.NDArray[Any]:
    try:
        return np.array([float(cell) if cell.strip() else np.nan for cell in cells], "<f8")
    except ValueError:
        return np.array([cell.strip().encode()[:MOST_CELL] for cell in cells], f"|S{MOST_CELL}")


def _times(cells: tuple[str, ...]) -> npt.NDArray[np.int64]:
    def ns(cell: str) -> int:
        if _number(cell) is not None:
            return int(Decimal(cell.strip()) * 10**9)
        moment = datetime.fromisoformat(cell.strip())
        whole = int(moment.replace(microsecond=0).timestamp())
        return whole * 10**9 + moment.microsecond * 1000

    return np.array([ns(cell) for cell in cells], "<i8")


def _pages(path: Path) -> Iterator[Any]:
    from PIL import Image, ImageSequence

    Image.MAX_IMAGE_PIXELS = None  # memory is limited already
    with Image.open(path, formats=["TIFF"]) as image:
        yield from ImageSequence.Iterator(image)


def _tiff_facts(path: Path) -> tuple[dict[str, Any], Arrays]:
    from PIL.TiffTags import TAGS_V2

    facts: dict[str, Fact] = {}
    picture: Arrays = []
    pages = 0
    for pages, page in enumerate(_pages(path), 1):  # noqa: B007 - the last number is how many there are
        if not picture:
            facts |= {"width": page.width, "height": page.height, "pixels": page.mode}
            for number, value in list(page.tag_v2.items())[:MOST_FACTS]:
                name = TAGS_V2[number].name if number in TAGS_V2 else f"tag {number}"
                if isinstance(value, str | int | float):
                    facts[name] = _text(value) if isinstance(value, str) else value
            picture.append(({"name": "picture"}, _small(np.asarray(page))))
    return {"facts": facts | {"pages": pages}}, picture


def _small(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every n-th pixel, at most about a thousand a side; ``(h, w)`` or ``(h, w, 3)``."""
    step = max(1, max(image.shape[:2]) // 512)
    return np.ascontiguousarray(image[::step, ::step])


def frames_of(path: Path, **_: Any) -> tuple[dict[str, Any], Arrays]:
    """Every page of a TIFF."""
    pages = [({"name": str(n)}, np.ascontiguousarray(np.asarray(page))) for n, page in enumerate(_pages(path))]
    return {"facts": {}}, pages


def _hdf5_facts(path: Path) -> tuple[dict[str, Any], Arrays]:
    import h5py

    facts: dict[str, Fact] = {}
    picture: Arrays = []

    def visit(name: str, node: Any) -> None:
        if len(facts) >= MOST_FACTS:
            return
        if isinstance(node, h5py.Dataset):
            plain = node.shape == () and not node.external and not node.is_virtual
            if plain and node.dtype.kind in "iufSO" and node.nbytes <= HEAD_BYTES:
                value = node.asstr()[()] if h5py.check_string_dtype(node.dtype) else node[()].item()
                facts[name] = value if isinstance(value, int | float) else _text(value)
            else:
                facts[name] = f"{node.dtype} {'x'.join(map(str, node.shape))}"
                inside = not node.external and not node.is_virtual
                if not picture and inside and node.ndim >= 2 and min(node.shape) > 1 and node.dtype.kind in "iuf":
                    # A codec that is not built in leaves the facts without a picture.
                    with contextlib.suppress(OSError):
                        picture.append(({"name": "picture"}, _small(node[(0,) * (node.ndim - 2)])))
        elif "NX_class" in node.attrs:
            facts[f"{name}@NX_class"] = _text(node.attrs["NX_class"])

    with h5py.File(path, "r") as file:
        file.visititems(visit)  # follows no link that leads out of the file
    return {"facts": facts}, picture


WANTS: dict[str, Callable[..., tuple[dict[str, Any], Arrays]]] = {"facts": facts_of, "rows": rows_of, "frames": frames_of}


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """What is written for one request; ``error`` says why there is nothing else."""
    path = Path(request.pop("path"))
    try:
        said, arrays = WANTS[request.pop("want")](path, **request)
    except Exception as error:  # the libraries raise anything at what is broken
        return {"error": f"{type(error).__name__}: {error}"[:MOST_TEXT]}, []
    listed = [about | {"dtype": array.dtype.str, "shape": array.shape} for about, array in arrays]
    return said | {"arrays": listed}, [array for _, array in arrays]


def main() -> int:
    """Answer until there are no more requests."""
    parser = argparse.ArgumentParser(prog="python -m adapters.files.reader", description="Read vendors' files.")
    parser.add_argument("--memory", type=int, default=MEMORY)
    limit(parser.parse_args().memory)
    out = sys.stdout.buffer
    for line in sys.stdin:
        said, arrays = answer(json.loads(line))
        out.write(json.dumps(said).encode() + b"\n")
        for array in arrays:
            out.write(array.tobytes())
        out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
