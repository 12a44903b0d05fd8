"""Labelled examples in a user's files: find the split, read and check it, decide what kind of labels it has."""

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any

from neurotool.errors import DataError, listing, shown
from neurotool.tables import SUFFIXES, Table, open_table

LABEL = "label"
LARGEST_SCORE = 1e15
"""Squares of larger ones leave float32 in training."""
_LONGEST_NAME = 200
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"([+-]?\d+)(\.0*)?", re.ASCII)
_WORDS = re.compile(r"[^\W\d_].*\s+\S*[^\W\d_]|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2}", re.DOTALL)
"""Two words with letters, or two characters of a script that puts no blanks between words."""
_SAMPLE = 50  # rows that show whether a column holds text


@dataclass(frozen=True)
class Examples:
    """Rows of one file as read: texts[column][row], labels[row] and places[row] ("line 7").

    A label is a string or a whole number as it is written, whatever the file type: 1, "1" and 1.0 are all "1"; or a
    score; or a truth value, the name "true" or "false". class_names: in the order of their ids, where the file names
    them.
    """

    path: Path
    text_columns: tuple[str, ...]
    texts: tuple[list[str], ...]
    labels: list[str]
    places: list[str]
    class_names: tuple[str, ...] = ()


def find_split(folder: Path, stems: Sequence[str]) -> Path:
    """Find the one file in `folder` named after one of `stems`, in any table format.

    Raises:
        DataError: no folder, no such file, or more than one.
    """
    if folder.is_file():
        raise DataError(f"{folder}: is a file; give the folder that holds train and validation files")
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; give one that holds train.tsv and validation.tsv (or .csv, .jsonl, …)"
        )
    found = [file for stem in stems for suffix in SUFFIXES if (file := folder / f"{stem}{suffix}").is_file()]
    if not found:
        raise DataError(f"{folder}: no {stems[0]} file; expected {stems[0]} with one of {', '.join(SUFFIXES)}")
    if len(found) > 1:
        raise DataError(f"{folder}: more than one {stems[0]} file ({', '.join(file.name for file in found)}); keep one")
    return found[0]


def read_examples(
    path: Path,
    choices: Sequence[tuple[str, ...]],
    label_column: str = LABEL,
    only: bool = False,
    options: bool = True,
) -> Examples:
    """Read the texts and labels of a file whose text columns are one of `choices`.

    only: the first of them that the file has. Otherwise there must be no doubt: every column that is one of the other
    choices', or holds sentences, is among the chosen ones. options: --text-columns and --label-column could say it.

    Raises:
        DataError: a column is missing, several could be meant, a text or label is missing or of another type (names the
            line), or there are no rows.
    """
    table = open_table(path)
    found = _find_columns(table, choices, label_column, options)
    text_columns, rows = found[0], table.rows
    if not only:
        text_columns = max(found, key=len)
        sample = list(islice(rows, _SAMPLE))
        texts = [name for columns in found for name in columns] + _sentence_columns(sample, label_column)
        _refuse_other_texts(path, text_columns, texts, options)
        rows = chain(sample, rows)
    class_names = table.class_names.get(label_column, ())
    examples = Examples(path, text_columns, tuple([] for _ in text_columns), [], [], class_names)
    for place, row in rows:
        for column, texts in zip(text_columns, examples.texts, strict=True):
            text = row.get(column)
            if text is None or (isinstance(text, str) and not text.strip()):
                raise DataError(f"{path}, {place}: {column} is empty; write a text or leave the example out")
            if not isinstance(text, str):
                raise DataError(f"{path}, {place}: {column} is {shown(text)}; it must be a text")
            texts.append(text)
        examples.labels.append(_label_text(row.get(label_column), path, place, label_column))
        examples.places.append(place)
    if not examples.labels:
        raise DataError(f"{path}: the file has no examples; it needs at least one row under its header")
    return examples


def infer_label_names(examples: Examples, regression: bool | None = None) -> tuple[str, ...]:
    """Class names in the order of their ids, or () where the labels are scores.

    Names are in the order of the file's own list, else sorted; integers must be 0..n-1. With any value that is not an
    integer the labels are scores, and integers are scores with `regression=True`.

    Raises:
        DataError: names among numbers, a single label, a gap in the integers, numbers that may be names, or labels that
            contradict `regression`.
    """
    path, distinct = examples.path, set(examples.labels)
    named = distinct if examples.class_names else {label for label in distinct if number(label) is None}
    if named and (named != distinct or regression):
        place, label = next(
            (p, label) for p, label in zip(examples.places, examples.labels, strict=True) if label in named
        )
        raise DataError(
            f"{path}, {place}: label {shown(label)} is not a number, though others are or the metric needs it; write "
            "all labels as numbers, or all as names"
        )
    if len(distinct) == 1:
        raise DataError(
            f"{path}: every label is {shown(examples.labels[0])}; training needs at least two different ones"
        )
    if named:
        return examples.class_names or tuple(sorted(distinct))
    fractions = [label for label in distinct if not _WHOLE.fullmatch(label)]
    if regression or (regression is None and any(not float(label).is_integer() for label in fractions)):
        return ()
    if fractions:
        raise DataError(
            f"{path}: label {shown(min(fractions))} is a score, not a class; use the metric pearson or spearman for "
            "scores, and for classes names that are no numbers"
        )
    classes = sorted(distinct, key=int)
    if classes != [str(index) for index in range(len(classes))]:
        raise DataError(
            f"{path}: integer labels must be 0 to n-1 without a gap, found {listing(classes)}; "
            "renumber them, use class names, or the metric pearson for scores"
        )
    return tuple(classes)


def encode_labels(examples: Examples, label_names: Sequence[str], numbered: bool = False) -> list[float]:
    """Turn labels into class ids, or into scores when `label_names` is empty.

    numbered: an id, too, is a label, since the data of the training wrote ids; but not where a name is a number.

    Raises:
        DataError: a label is not one of the classes, not a number or beyond LARGEST_SCORE; names the line.
    """
    ids = {name: index for index, name in enumerate(label_names)}
    if numbered and not any(number(name) is not None for name in label_names):
        ids |= {str(index): index for index in range(len(label_names))}
    values: list[float] = []
    for label, place in zip(examples.labels, examples.places, strict=True):
        value = ids.get(label) if label_names else number(label)
        if value is None:
            wanted = f"one of the classes {listing(label_names)}" if label_names else "a number"
            remedy = "write the names of the classes" if label_names and number(label) is not None else "correct it"
            raise DataError(f"{examples.path}, {place}: label {shown(label)} is not {wanted}; {remedy} or leave it out")
        if not label_names and abs(value) > LARGEST_SCORE:
            raise DataError(
                f"{examples.path}, {place}: label {shown(label)} is beyond {LARGEST_SCORE:g}, the largest score; "
                "divide all scores by a number"
            )
        values.append(value)
    return values


def _find_columns(
    table: Table, choices: Sequence[tuple[str, ...]], label_column: str, options: bool
) -> list[tuple[str, ...]]:
    """Those of the choices that the table has, which are some."""
    found = [columns for columns in choices if set(columns) <= set(table.columns)]
    if not found or label_column not in table.columns:
        wanted = f"column {label_column}"
        if not found:
            wanted = f"text column ({' or '.join(' and '.join(names) for names in choices)})"
        raise DataError(
            f"{table.path}: no {wanted}; the columns found are: {listing(table.columns)}; name it in the header"
            + (", or give --text-columns and --label-column" if options else "")
        )
    return found


def _sentence_columns(rows: Sequence[tuple[str, dict[str, Any]]], label_column: str) -> list[str]:
    """Columns that hold texts of several words in most of the rows that have them."""
    found = []
    for column in dict.fromkeys(name for _, row in rows for name in row):
        values = [value for _, row in rows if isinstance(value := row.get(column), str) and value.strip()]
        if column != label_column and sum(bool(_WORDS.search(value)) for value in values) > len(values) / 2:
            found.append(column)
    return found


def _refuse_other_texts(path: Path, text_columns: tuple[str, ...], texts: Sequence[str], options: bool) -> None:
    if others := [name for name in dict.fromkeys(texts) if name not in text_columns]:
        remedy = "say which to read with --text-columns A, or A,B for pairs"
        if not options:
            remedy = f"only {' and '.join(text_columns)} can be read: leave the others out of the file"
        raise DataError(f"{path}: text is in the columns {listing([*text_columns, *others])}; {remedy}")


def _label_text(value: Any, path: Path, place: str, column: str) -> str:
    if not isinstance(value, str | int | float | Decimal | None):
        raise DataError(
            f"{path}, {place}: {column} is {shown(value)} ({type(value).__name__}); it must be one name or number"
        )
    text = json.dumps(value) if isinstance(value, bool) else "" if value is None else str(value).strip()
    if not text:
        raise DataError(f"{path}, {place}: {column} is empty; write one or leave the example out")
    if len(text) > _LONGEST_NAME or any(unicodedata.category(character) == "Cc" for character in text):
        raise DataError(
            f"{path}, {place}: {column} {shown(text)} is no name: it has over {_LONGEST_NAME} characters, or control "
            "characters"
        )
    if whole := _WHOLE.fullmatch(text):
        return whole[1] if math.isfinite(float(text)) else _refuse_infinite(text, path, place, column)
    value = number(text)
    if not math.isfinite(0.0 if value is None else value) or text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        _refuse_infinite(text, path, place, column)
    return text


def _refuse_infinite(text: str, path: Path, place: str, column: str) -> str:
    raise DataError(f"{path}, {place}: {column} {shown(text)} is not a finite number; correct it or leave it out")


def number(text: str) -> float | None:
    """The number that `text` writes in decimal digits; None where it is a name, as 0_1 is."""
    return float(text) if _NUMBER.fullmatch(text) else None
