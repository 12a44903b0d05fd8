"""Variants of training texts: what may change in them, who labels them, and that a run with them can be resumed."""

import random
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import Trainer

pytest.importorskip("textblob", reason="needs the augment extra")

from neurotool.checkpoint import read_checkpoint
from neurotool.errors import ConfigError, DataError
from neurotool.tasks import load_data
from neurotool.train import finetuning, pipeline
from neurotool.train.augmentation import Chances, augment, count_words, tag_words, vary
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan
from neurotool.train.trainer import DistillationTrainer

MakePlan = Callable[..., TrainingPlan]
QUIET = Console(quiet=True)
NOTHING = Chances(mask=0, replace=0, ngram=0)
TEXTS = ["The old film slowly makes us .", "a new car quickly stops", "the old dog is here , isn't it ?"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `datasets`: variants of an earlier version of the code must not be found."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def texts(*columns: Iterable[str]) -> datasets.Dataset:
    named = {f"sentence{i}": list(column) for i, column in enumerate(columns, start=1)}
    return datasets.Dataset.from_dict(named | {"label": [0] * len(named["sentence1"])})


def once(text: str, chances: Chances, seed: int = 0) -> str:
    return vary(tag_words(text), count_words(texts(TEXTS).remove_columns("label")), "[M]", chances, random.Random(seed))


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a film, isn't it?!", ["a", "film", ",", "isn't", "it", "?", "!"]),
        ("does n't  'the' well-made film's", ["does", "n't", "'", "the", "'", "well-made", "film", "'s"]),
        ("... $20 a/b [x]", ["...", "$", "20", "a", "/", "b", "[", "x", "]"]),
        ("太慢了！！ok的", ["太", "慢", "了", "！！", "ok", "的"]),
        ("naïve — caf\u0065\u0301", ["naïve", "—", "cafe", "\u0301"]),
        ("  ", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    """And together they are the text."""
    found = tag_words(text)
    assert [word.text for word in found] == words
    assert once(text, NOTHING) == text.strip()


def test_tags() -> None:
    tags = {word.text: word.tag for word in tag_words("The old film slowly makes us , 太")}
    assert tags == {"The": "DT", "old": "JJ", "film": "NN", "slowly": "RB", "makes": "VBZ", "us": "PRP"} | {
        ",": ",",
        "太": None,
    }


def test_words_are_counted_by_tag() -> None:
    """Over both sentences of pairs."""
    counted = count_words(texts(["the old film", "old dog"], ["the film", "a film"]).remove_columns("label"))
    assert {tag: (c.words, c.cumulative) for tag, c in counted.items()} == {
        "DT": (["the", "a"], [2, 3]),
        "JJ": (["old"], [2]),
        "NN": (["film", "dog"], [3, 4]),
    }


# --- one variant -----------------------------------------------------------------------------------------------------


def test_every_word_is_masked() -> None:
    assert once("a film, isn't it?", Chances(mask=1, replace=0, ngram=0)) == "[M] [M][M] [M] [M][M]"
    assert once("太慢 ok", Chances(mask=1, replace=0, ngram=0)) == "[M][M] [M]"


def test_every_word_is_replaced_by_one_of_its_tag() -> None:
    vocabulary = count_words(texts(TEXTS).remove_columns("label"))
    made = [once(TEXTS[0], Chances(mask=0, replace=1, ngram=0), seed).split(" ") for seed in range(50)]
    for place, word in enumerate(tag_words(TEXTS[0])):
        assert {variant[place] for variant in made} == set(vocabulary[word.tag or ""].words)
    assert "makes" in vocabulary["VBZ"].words and "isn't" in vocabulary["VBZ"].words
    assert once("太慢了", Chances(mask=0, replace=1, ngram=0)) == "太慢了"


def test_replacements_follow_the_frequencies() -> None:
    vocabulary = count_words(texts(["film film film dog"]).remove_columns("label"))
    words, choose = tag_words("dog"), random.Random(0)
    made = [vary(words, vocabulary, "[M]", Chances(0, 1, 0), choose) for _ in range(2000)]
    assert made.count("film") / 2000 == pytest.approx(3 / 4, abs=0.03)  # three standard deviations


def test_one_draw_decides_between_mask_and_replacement() -> None:
    """.5 masked and .5 replaced leave no word alone; two independent draws would leave a quarter."""
    text = " ".join(["unseen"] * 1000)
    vocabulary = {"NN": count_words(texts(["film"]).remove_columns("label"))["NN"]}
    words = [word._replace(tag="NN") for word in tag_words(text)]
    made = vary(words, vocabulary, "[M]", Chances(0.5, 0.5, 0), random.Random(0)).split(" ")
    assert set(made) == {"[M]", "film"} and made.count("[M]") == pytest.approx(500, abs=48)


def test_ngrams_are_runs_of_one_to_five_words() -> None:
    text = "a b c d e f g h"
    made = {once(text, Chances(0, 0, 1), seed) for seed in range(2000)}
    assert made == {text[2 * i : 2 * (i + n) - 1] for n in range(1, 6) for i in range(9 - n)}
    assert {once("a b", Chances(0, 0, 1), seed) for seed in range(50)} == {"a", "b", "a b"}


def test_a_quarter_is_cut() -> None:
    text = "a b c d e f g h"
    cut = sum(once(text, Chances(0, 0, 0.25), seed) != text for seed in range(2000))
    assert cut / 2000 == pytest.approx(0.25, abs=0.03)


# --- a data set ------------------------------------------------------------------------------------------------------


def test_both_sentences_of_pairs_change() -> None:
    made = augment(texts(["a b", "c"], ["d", "e f g"]), 3, "[M]", 0, Chances(mask=1, replace=0, ngram=0))
    assert made.column_names == ["sentence1", "sentence2"]
    assert made[:] == {"sentence1": ["[M] [M]", "[M]"], "sentence2": ["[M]", "[M] [M] [M]"]}  # once each: no repeats


def test_what_repeats_a_text_is_left_out() -> None:
    """Also another text than its own, and whatever spaces are around it."""
    made = augment(texts(["a b c", "a", " b "]), 40, "[M]", 0, Chances(mask=0, replace=0, ngram=1))
    assert sorted(made["sentence1"]) == ["a b", "b c", "c"]


def test_nothing_left() -> None:
    with pytest.raises(DataError, match="no variant differs from the training texts; leave out --augment"):
        augment(texts(["a"]), 2, "[M]", 0, NOTHING)


def test_the_seed_alone_decides() -> None:
    """More variants or texts add to those there are; another seed makes others; the result is memory-mapped."""
    vocabulary = ["good", "old", "film", "dog", "runs", "the", "a"]
    words = texts([" ".join(random.Random(i).choices(vocabulary, k=9)) for i in range(30)])
    same = Chances(mask=0.3, replace=0, ngram=0.25)  # replacements depend on all texts
    first = augment(words, 2, "[M]", 7, same)
    assert first.cache_files and augment(words, 2, "[M]", 7, same).cache_files == first.cache_files
    assert 50 < len(first) <= 60
    assert augment(words, 2, "[M]", 8, same)[:] != first[:]
    fewer = augment(words.select(range(10)), 2, "[M]", 7, same)["sentence1"][:]
    assert fewer == first["sentence1"][: len(fewer)]
    assert set(first["sentence1"]) <= set(augment(words, 3, "[M]", 7, same)["sentence1"])


def test_without_the_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textblob.taggers", None)
    with pytest.raises(ConfigError, match=r"--augment needs TextBlob .* not installed; run: pip install textblob"):
        augment(texts(TEXTS), 1, "[M]", 0)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> dict[str, DistillationTrainer]:
    """The trainers of a run, by stage."""
    trainers: dict[str, DistillationTrainer] = {}
    start = DistillationTrainer.__init__

    def spy(self: DistillationTrainer, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        trainers[Path(self.args.output_dir).name] = self

    monkeypatch.setattr(DistillationTrainer, "__init__", spy)
    return trainers


@pytest.mark.parametrize("kind", ["classes", "pairs", "scores"])
def test_the_teacher_labels_variants(
    make_plan: MakePlan, taught: dict[str, DistillationTrainer], tiny_data: Callable[[str], Path], kind: str
) -> None:
    """What it says of each alone; the texts of the task keep their labels. Both kinds teach in both stages."""
    plan = make_plan("--augment", "2", "--epochs", "1", "--inner-epochs", "1", kind=kind)
    result = train(plan, QUIET)
    original = load_data(tiny_data(kind)).train["label"][:]
    record = read_checkpoint(result.output).training
    made = record["data"]["variants"]
    assert record["data"]["train_size"] == 100 and 120 < made <= 200 and record["plan"]["augment"] == 2
    assert [(s["name"], s["texts"]) for s in record["stages"]] == [("inner", 100 + made), ("prediction", 100 + made)]
    for trainer in taught.values():
        dataset = trainer.train_dataset
        assert dataset["labels"][:100] == original
        inputs = dataset.remove_columns("labels")
        logits = [trainer.teacher({k: torch.tensor([v]) for k, v in row.items()}).logits[0] for row in inputs]
        said = [float(x) if kind == "scores" else int(x.argmax()) for x in logits]
        assert dataset["labels"][100:] == pytest.approx(said[100:], abs=1e-5)
        mask = trainer.processing_class.mask_token_id
        masked = [mask in ids for ids in dataset["input_ids"]]
        assert not any(masked[:100]) and sum(masked[100:]) > 50


def test_labels_are_not_those_of_the_texts(
    make_plan: MakePlan, taught: dict[str, DistillationTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that answers 1 whatever it reads, where half of the texts are 0."""
    prepare = pipeline.prepare_teacher

    def stubborn(*arguments: Any) -> Any:
        model, tokenizer, _ = prepare(*arguments)
        assert len(arguments[3]) == 100, "the teacher is fine-tuned on the texts of the task only"
        model.classifier.bias.data = torch.tensor([0.0, 1e3])
        return model, tokenizer, None

    monkeypatch.setattr(pipeline, "prepare_teacher", stubborn)
    train(make_plan("--augment", "1", "--epochs", "1"), QUIET)
    labels = np.asarray(taught["prediction"].train_dataset["labels"])
    assert 30 < labels[:100].sum() < 70
    assert len(labels) > 150 and labels[100:].all()


def test_resuming_gives_the_same_student(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels are computed once."""
    options = ("--augment", "2", "--epochs", "1", "--student", "spikebert")
    whole = train(make_plan(*options, output="whole.ckpt"), Console(stderr=True, width=200))
    made = read_checkpoint(whole.output).training["data"]["variants"]
    assert f"augmentation: 100 texts and {made} variants\n" in capsys.readouterr().err
    training_step = Trainer.training_step

    def interrupt(self: Trainer, *arguments: Any) -> Any:
        if Path(self.args.output_dir).name == "prediction" and self.state.global_step == 7:
            signal.raise_signal(signal.SIGINT)
        return training_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt, match="stopped in stage prediction at step 8"):
            train(make_plan(*options), QUIET)
    with pytest.raises(ConfigError, match="augment was 2 and is now 3"):
        train(make_plan(*options, "--augment", "3", "--resume"), QUIET)
    calls: list[int] = []
    predict = finetuning.predict_logits

    def count(model: Any, dataset: datasets.Dataset, *rest: Any) -> np.ndarray:
        calls.append(len(dataset))
        return predict(model, dataset, *rest)

    monkeypatch.setattr(finetuning, "predict_logits", count)
    resumed = train(make_plan(*options, "--resume"), QUIET)
    assert calls == [40], "only the validation texts are read again"
    ours, theirs = (read_checkpoint(result.output).tensors for result in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []


def test_what_is_refused(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("trained first"))
    with pytest.raises(ConfigError, match="--augment -1: it must be 0 to 1000"):
        train(make_plan("--augment", "-1"), QUIET)
    load = pipeline.load_teacher

    def without_mask(*arguments: Any) -> Any:
        loaded = load(*arguments)
        loaded.tokenizer.mask_token = None
        return loaded

    monkeypatch.setattr(pipeline, "load_teacher", without_mask)
    with pytest.raises(ConfigError, match=r"--augment 1: the tokenizer of .* has no mask token; leave it out"):
        train(make_plan("--augment", "1"), QUIET)
