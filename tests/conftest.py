"""Shared by all tests: one thread, no network, patient hypothesis, and the optional shared data."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch or transformers is imported by any test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from neurotool.student import SpikingBertForSequenceClassification
    from neurotool.train.plan import TrainingPlan

ROOT = Path(__file__).resolve().parent.parent
TINY_WORDS = ("good", "fine", "bad", "poor", *(f"w{i}" for i in range(20)), "##s", ".")

# On a busy machine the first example of a torch test takes longer than any deadline worth having.
# The same examples on every run, so that a change is judged by what it changes; `explore` draws new ones.
settings.register_profile("neurotool", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "neurotool"))

# A shell that starts the tests in the background has them ignore Ctrl-C, which several tests are about.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the working tree."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with development data (`$NEUROTOOL_SHARED`, else `../shared`); the test is skipped without it."""
    folder = Path(os.environ.get("NEUROTOOL_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder} (set NEUROTOOL_SHARED)")
    return folder


@pytest.fixture(scope="session")
def make_student() -> "Callable[..., SpikingBertForSequenceClassification]":
    """Builds a student of 2 layers x 16 in eval mode, with weights so large that its neurons spike at all rates.

    Arguments: seed, and any value of its configuration.
    """
    import torch

    from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification

    tiny: dict[str, Any] = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 16,
        "initializer_range": 0.4,
    }

    def make(seed: int = 0, **values: Any) -> SpikingBertForSequenceClassification:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return SpikingBertForSequenceClassification(SpikingBertConfig(**tiny | values)).eval()

    return make


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of 2 layers x 32 without a head, 24 positions, and its WordPiece tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TINY_WORDS])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = tmp_path_factory.mktemp("teachers") / "tiny"
    BertTokenizer(tokenizer_object=backend).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=24,
            initializer_range=0.15,
        )
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a task that can be learned from one word: "classes", "pairs" (the second text decides) or "scores"."""
    root = tmp_path_factory.mktemp("data")

    def make(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            folder.mkdir()
            for seed, (split, examples) in enumerate({"train": 100, "validation": 40}.items()):
                choose = random.Random(seed)
                rows = [_TINY_ROWS[kind](choose) for _ in range(examples)]
                header = "sentence1\tsentence2\tlabel" if kind == "pairs" else "sentence\tlabel"
                (folder / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return folder

    return make


def _fillers(choose: random.Random) -> list[str]:
    return choose.choices(TINY_WORDS[4:24], k=choose.randint(2, 9))


def _mixed(choose: random.Random, words: list[str]) -> str:
    return " ".join(choose.sample(words, len(words)))


def _classes_row(choose: random.Random) -> str:
    label = choose.randrange(2)
    word = choose.choice(TINY_WORDS[:2] if label else TINY_WORDS[2:4])
    return f"{_mixed(choose, [*_fillers(choose), word])}\t{('negative', 'positive')[label]}"


def _pairs_row(choose: random.Random) -> str:
    return f"{_mixed(choose, _fillers(choose))}\t{_classes_row(choose)}"


def _scores_row(choose: random.Random) -> str:
    good = choose.randrange(5)
    words = [*choose.choices(TINY_WORDS[:2], k=good), *choose.choices(TINY_WORDS[2:4], k=4 - good)]
    return f"{_mixed(choose, [*_fillers(choose)[:3], *words])}\t{good / 4 + 0.125}"


_TINY_ROWS = {"classes": _classes_row, "pairs": _pairs_row, "scores": _scores_row}


@pytest.fixture(scope="session")
def teacher_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned teachers, shared by the tests, so that each is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run_options(
    tiny_teacher: Path,
    tiny_data: Callable[[str], Path],
    teacher_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[str]]:
    """Options of `neurotool train` for a run of seconds that writes under tmp_path; further ones are appended."""
    monkeypatch.setenv("NEUROTOOL_CACHE", str(teacher_cache))

    def make(*further: str, kind: str = "classes", output: str = "model.ckpt") -> list[str]:
        tiny = {
            "--teacher": tiny_teacher,
            "--data": tiny_data(kind),
            "-o": tmp_path / output,
            "--layers": 2,
            "--run-folder": tmp_path / "runs" / output,
            "--epochs": 3,
            "--batch-size": 16,
            "--learning-rate": 3e-3,
            "--teacher-epochs": 12,
            "--teacher-learning-rate": 3e-3,
        }
        return [*(str(part) for option in tiny.items() for part in option), *further]

    return make


@pytest.fixture
def make_plan(run_options: Callable[..., list[str]]) -> "Callable[..., TrainingPlan]":
    """The plan of a run of seconds, from further options of `neurotool train`."""
    from neurotool.cli.train import train
    from neurotool.train.options import plan_from

    def make(*further: str, **changes: str) -> "TrainingPlan":
        options = train.make_context("train", run_options(*further, **changes)).params
        del options["as_json"], options["config"]
        return plan_from(options)

    return make


@pytest.fixture(scope="session")
def write_untrained(tiny_teacher: Path, tiny_data: Callable[[str], Path]) -> Callable[..., Path]:
    """Writes a student to a file, with the record that training would have left; sizes: in which it is not like its
    teacher."""
    from transformers import AutoTokenizer

    from neurotool.checkpoint import write_checkpoint
    from neurotool.evaluation import evaluate
    from neurotool.student.serialise import to_checkpoint
    from neurotool.tasks import load_data, tokenise

    def write(path: Path, student: Any, **sizes: int) -> Path:
        data, tokenizer = load_data(tiny_data("classes")), AutoTokenizer.from_pretrained(tiny_teacher)
        dataset, _ = tokenise(data.validation, tokenizer, student.config.max_position_embeddings)
        result = evaluate(student, dataset, tokenizer, data.task)
        training = {
            "teacher": {"name": "tiny", "layers": 2, "metrics": {"accuracy": 0.9}},
            "metrics": result.metrics,
            "data": {"validation_size": len(dataset)},
            "plan": {"data": str(tiny_data("classes")), "student": sizes},
        }
        write_checkpoint(path, to_checkpoint(student, tokenizer, data.task, training, result.activity.to_dict()))
        return path

    return write


@pytest.fixture(scope="session")
def energy_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, write_untrained: Callable[..., Path]
) -> Path:
    """An untrained student of 2 layers x 32."""
    import torch
    from transformers import AutoTokenizer

    from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification

    config = SpikingBertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(tiny_teacher)), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=24, initializer_range=0.3, time_steps=4,
        v_threshold=0.8, spikes="ternary",
    )  # fmt: skip
    torch.manual_seed(0)
    student = SpikingBertForSequenceClassification(config).eval()
    return write_untrained(tmp_path_factory.mktemp("energy") / "model.ckpt", student)
