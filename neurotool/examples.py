"""Labelled examples in a user's files: find the split, read and check it, decide what kind of labels it has."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurotool.errors import DataError
from neurotool.tables import SUFFIXES, Table, open_table


@dataclass(frozen=True)
class Examples:
    """Rows of one file as read: texts[column][row], labels[row] and places[row] ("line 7").

    Labels have one spelling whatever the file type: 1, "1" and 1.0 are all "1".
    """

    path: Path
    text_columns: tuple[str, ...]
    texts: tuple[list[str], ...]
    labels: list[str]
    places: list[str]


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


def read_examples(path: Path, choices: Sequence[tuple[str, ...]]) -> Examples:
    """Read the texts and labels of a file whose text columns are one of `choices`, the first that fits.

    Raises:
        DataError: a column is missing, a text or label is missing (names the line), or there are no rows.
    """
    table = open_table(path)
    text_columns = _choose_columns(table, choices)
    examples = Examples(path, text_columns, tuple([] for _ in text_columns), [], [])
    for place, row in table.rows:
        for column, texts in zip(text_columns, examples.texts, strict=True):
            text = row.get(column)
            if text is None or (isinstance(text, str) and not text.strip()):
                raise DataError(f"{path}, {place}: {column} is empty; write a text or leave the example out")
            if not isinstance(text, str):
                raise DataError(f"{path}, {place}: {column} is {text!r}; it must be a text")
            texts.append(text)
        examples.labels.append(_label_text(row.get("label"), path, place))
        examples.places.append(place)
    if not examples.labels:
        raise DataError(f"{path}: the file has no examples; it needs at least one row under its header")
    return examples


def infer_label_names(examples: Examples, regression: bool | None = None) -> tuple[str, ...]:
    """Class names in the order of their ids, or () where the labels are scores.

    Names are sorted, integers must be 0..n-1. With any value that is not an integer the labels are scores, and integers
    are scores with `regression=True`.

    Raises:
        DataError: names among numbers, a single label, a gap in the integers, or labels that contradict `regression`.
    """
    path, distinct = examples.path, set(examples.labels)
    named = {label for label in distinct if _number(label) is None}
    if named and (named != distinct or regression):
        place, label = next(
            (p, label) for p, label in zip(examples.places, examples.labels, strict=True) if label in named
        )
        raise DataError(
            f"{path}, {place}: label {label!r} is not a number, though others are or the metric needs it; write all "
            "labels as numbers, or all as names"
        )
    if len(distinct) == 1:
        raise DataError(f"{path}: every label is {examples.labels[0]!r}; training needs at least two different ones")
    if named:
        return tuple(sorted(distinct))
    fractions = [label for label in distinct if not float(label).is_integer()]
    if regression or (fractions and regression is None):
        return ()
    if fractions:
        raise DataError(f"{path}: label {min(fractions)} is a score, not a class; use the metric pearson or spearman")
    classes = sorted(distinct, key=int)
    if classes != [str(index) for index in range(len(classes))]:
        raise DataError(
            f"{path}: integer labels must be 0 to n-1 without a gap, found {_listing(classes)}; "
            "renumber them, use class names, or the metric pearson for scores"
        )
    return tuple(classes)


def encode_labels(examples: Examples, label_names: Sequence[str]) -> list[float]:
    """Turn labels into class ids, or into scores when `label_names` is empty. An id is accepted for a class name.

    Raises:
        DataError: a label is not one of the classes, or not a number; names the line.
    """
    ids = {str(index): index for index in range(len(label_names))}
    ids |= {name: index for index, name in enumerate(label_names)}
    values: list[float] = []
    for label, place in zip(examples.labels, examples.places, strict=True):
        value = ids.get(label) if label_names else _number(label)
        if value is None:
            wanted = f"one of the classes {_listing(label_names)}" if label_names else "a number"
            raise DataError(f"{examples.path}, {place}: label {label!r} is not {wanted}; correct it or leave it out")
        values.append(value)
    return values


def _choose_columns(table: Table, choices: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    found = [columns for columns in choices if set(columns) <= set(table.columns)]
    if found and "label" in table.columns:
        return found[0]
    wanted = "column label" if found else f"text column ({' or '.join(' and '.join(names) for names in choices)})"
    raise DataError(
        f"{table.path}: no {wanted}; the columns found are: {', '.join(table.columns)}; name it in the header"
    )


def _label_text(value: Any, path: Path, place: str) -> str:
    text = str(int(value)) if isinstance(value, bool) else "" if value is None else str(value).strip()
    if not text:
        raise DataError(f"{path}, {place}: label is empty; write one or leave the example out")
    number = _number(text)
    if number is None:
        return text
    if not math.isfinite(number):
        raise DataError(f"{path}, {place}: label {text!r} is not a finite number; correct it or leave it out")
    return str(int(number)) if number.is_integer() else repr(number)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _listing(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:10]) + (f", … ({len(names)} in all)" if len(names) > 10 else "")
