"""Table files of a user (TSV, CSV, JSON lines, Parquet), read row by row; every error names the file and the line."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurotool.errors import DataError, listing, one_line, shown

csv.field_size_limit(2**31 - 1)  # a text may be long: Python's own limit is 131,072 characters

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Table:
    """An open table. `rows` can be read once; each row comes with its place in the file, "line 7" or "row 7".

    class_names: of columns whose whole numbers stand for names that the file holds (Parquet written by `datasets`).
    """

    path: Path
    columns: tuple[str, ...]
    rows: Iterator[tuple[str, dict[str, Any]]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def open_table(path: Path) -> Table:
    """Open the table at `path`; rows are read when iterated, so memory does not grow with the file.

    TSV has one header line and no quoting, but for fields in quotes whose own quotes are doubled: no text looks like
    that before a CSV writer saw it. CSV has one header line and the usual quoting, JSON lines has one object a line
    (the first one's keys are the columns). Blank lines are skipped.

    Raises:
        DataError: the file is missing, empty, of another type, not UTF-8, or a row does not fit the columns.
    """
    readers = {
        ".tsv": _open_tsv,
        ".csv": _open_csv,
        ".jsonl": _open_json_lines,
        ".json": _open_json_lines,
        ".parquet": _open_parquet,
    }
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: unknown table type {path.suffix!r}; use one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        return readers[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_lines(path: Path, at_once: int = -1) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its ending) of a UTF-8 file; a byte order mark is dropped.

    at_once: a line of more bytes comes in parts of so many, cut at blanks where it has any.

    Raises:
        DataError: a line is not UTF-8; names file, line and byte. Or the first line holds carriage returns.
    """
    number, rest = 1, b""
    with path.open("rb") as file:
        while raw := rest + (read := file.readline(at_once)):
            goes_on = len(read) == at_once and not read.endswith(b"\n")
            raw, rest = _cut(raw) if goes_on else (raw, b"")
            if number == 1 and b"\r" in raw.rstrip(b"\r\n"):
                raise DataError(f"{path}: its line ends are carriage returns; save the file with line feeds")
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: byte 0x{raw[error.start]:02x} at position {error.start + 1} is not UTF-8; "
                    "save the file as UTF-8"
                ) from error
            yield number, (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")
            number += raw.endswith(b"\n")


def _cut(line: bytes) -> tuple[bytes, bytes]:
    """Part of a line, up to its last blank or else its last whole character, and the rest."""
    end = line.rfind(b" ")
    if end < 1:
        end = len(line) - 1
        while end > 1 and line[end] & 0xC0 == 0x80:
            end -= 1
    return line[:end], line[end:]


def _open_tsv(path: Path) -> Table:
    records = ((number, _unquoted(line.split("\t"))) for number, line in read_lines(path) if line.strip(" \r\n"))
    return _with_header(path, records)


def _unquoted(fields: list[str]) -> list[str]:
    """Fields without the quotes of a CSV writer, which stand where inner quotes are doubled, every one of them."""
    for i, text in enumerate(fields):
        inner = text[1:-1]
        if text[:1] == text[-1:] == '"' and '""' in inner and '"' not in inner.replace('""', ""):
            fields[i] = inner.replace('""', '"')
    return fields


def _open_csv(path: Path) -> Table:
    return _with_header(path, _csv_records(path))


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line the record starts on, fields); a quoted field may span lines."""
    reader = csv.reader((line + "\n" for _, line in read_lines(path)), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = "close every quote, double those in a text"
            if "new-line" in str(error):
                error, remedy = csv.Error("a carriage return outside of quotes"), "save the file with line feeds"
            raise DataError(f"{path}, line {start}: not valid CSV ({error}); {remedy}") from error
        if any(field.strip() for field in fields):
            yield start, fields


def _with_header(path: Path, records: Iterator[tuple[int, list[str]]]) -> Table:
    """The first record names the columns; every other one must have as many fields."""
    remedy = (
        "put a tab between fields and none into a text" if path.suffix.lower() == ".tsv" else "quote texts with commas"
    )
    _, header = next(records, (0, []))
    columns = tuple(name.strip() for name in header)
    if not columns:
        raise DataError(f"{path}: the file is empty; its first line must name the columns")
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}, line 1: a column name occurs twice in {listing(columns)}; rename one")

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for number, fields in records:
            if len(fields) != len(columns):
                raise DataError(
                    f"{path}, line {number}: {len(fields)} fields, but the header names {len(columns)}; {remedy}"
                )
            yield f"line {number}", dict(zip(columns, fields, strict=True))

    return Table(path, columns, rows())


def _open_json_lines(path: Path) -> Table:
    first = next(_json_records(path), None)
    if first is None:
        raise DataError(f"{path}: the file is empty; it must hold one JSON object a line")
    return Table(path, tuple(first[1]), _json_records(path))


def _json_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_object)
            if "\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: not valid JSON ({one_line(error)}); write one object a line"
            ) from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: a JSON {type(record).__name__}; write one object a line")
        yield f"line {number}", record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values under one name JSON readers keep the last in silence, here it is a ValueError."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError(f"a name occurs twice in {listing([name for name, _ in pairs])}")
    return record


def _open_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({one_line(error).rstrip('.')}); write it again, or as .csv or .jsonl"
        ) from error

    names = _class_names(file.schema_arrow.metadata or {})

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1000):
                for record in batch.to_pylist():
                    number += 1
                    place = f"row {number}"
                    yield place, record | {c: _named(path, place, c, record.get(c), names[c]) for c in names}
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}, after row {number}: not readable ({one_line(error)}); write it again") from error

    return Table(path, tuple(file.schema_arrow.names), rows(), names)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Of the ClassLabel columns that `datasets` describes in a schema's metadata."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        labelled = {name: kind for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
        return {name: tuple(map(str, kind["names"])) for name, kind in labelled.items() if kind.get("names")}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _named(path: Path, place: str, column: str, value: Any, names: tuple[str, ...]) -> Any:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(
            f"{path}, {place}: {column} is {shown(value)}, the file names the classes 0 to {len(names) - 1}: "
            f"{listing(names)}; correct it or leave it out"
        )
    return names[value]
