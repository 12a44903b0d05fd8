"""Table files of a user (TSV, CSV, JSON lines, Parquet), read row by row; every error names the file and the line."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurotool.errors import DataError, one_line

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Table:
    """An open table. `rows` can be read once; each row comes with its place in the file, "line 7" or "row 7"."""

    path: Path
    columns: tuple[str, ...]
    rows: Iterator[tuple[str, dict[str, Any]]]


def open_table(path: Path) -> Table:
    """Open the table at `path`; rows are read when iterated, so memory does not grow with the file.

    TSV has one header line and no quoting, CSV has one header line and the usual quoting, JSON lines has one object a
    line (the first one's keys are the columns). Blank lines are skipped.

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


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its ending) of a UTF-8 file; a byte order mark is dropped.

    Raises:
        DataError: a line is not UTF-8; names file, line and byte.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: byte 0x{raw[error.start]:02x} at position {error.start + 1} is not UTF-8; "
                    "save the file as UTF-8"
                ) from error
            yield number, (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")


def _open_tsv(path: Path) -> Table:
    records = ((number, line.split("\t")) for number, line in read_lines(path) if line.strip())
    return _with_header(path, records)


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
            raise DataError(
                f"{path}, line {start}: not valid CSV ({error}); close every quote, double those in a text"
            ) from error
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
        raise DataError(f"{path}, line 1: a column name occurs twice in {', '.join(columns)}; rename one")

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
            record = json.loads(line)
            if "\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error}); write one object a line") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: a JSON {type(record).__name__}; write one object a line")
        yield f"line {number}", record


def _open_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({one_line(error).rstrip('.')}); write it again, or as .csv or .jsonl"
        ) from error

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1000):
                for record in batch.to_pylist():
                    number += 1
                    yield f"row {number}", record
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}, after row {number}: not readable ({one_line(error)}); write it again") from error

    return Table(path, tuple(file.schema_arrow.names), rows())
