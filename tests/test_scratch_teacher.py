"""A teacher made from the training texts alone, and Chinese text from the file to the answer."""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console
from transformers import BertConfig, BertModel, BertTokenizer, Trainer

from neurotool.checkpoint import read_checkpoint
from neurotool.cli.main import cli
from neurotool.cli.train import train as command
from neurotool.errors import TeacherError
from neurotool.tasks import load_data
from neurotool.train import finetuning, scratch
from neurotool.train.options import plan_from
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan
from neurotool.train.scratch import learn_tokenizer, scratch_teacher
from neurotool.train.teacher import load_teacher, store_teacher

QUIET = Console(quiet=True)
FILLERS = "房间早餐服务前台位置电视空调我们他们这家酒店"
GOOD, BAD = "好", "差"
TINY = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
Options = Callable[..., list[str]]


def review(choose: random.Random) -> str:
    label = choose.randrange(2)
    characters = [*choose.choices(FILLERS, k=choose.randint(4, 12)), GOOD if label else BAD]
    choose.shuffle(characters)
    return f"{''.join(characters)}。\t{label}"


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews decided by one character; the training file begins with a byte order mark."""
    folder = tmp_path_factory.mktemp("chinese")
    for seed, (name, count, encoding) in enumerate([("train", 160, "utf-8-sig"), ("validation", 60, "utf-8")]):
        choose = random.Random(seed)
        rows = ["sentence\tlabel", *(review(choose) for _ in range(count))]
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n", encoding=encoding)
    return folder


@pytest.fixture
def options(chinese: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """Of `neurotool train --teacher scratch` for a run of seconds; further ones are appended."""
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scratch, "SHAPE", TINY)

    def make(*further: str, output: str = "model.ckpt") -> list[str]:
        fixed = f"--teacher scratch --data {chinese} -o {tmp_path / output} --layers 2 --max-length 32 --epochs 2"
        fixed += " --batch-size 16 --learning-rate 3e-3 --teacher-epochs 12 --teacher-learning-rate 3e-3"
        return [*fixed.split(), *further]

    return make


def plan(arguments: list[str]) -> TrainingPlan:
    values = command.make_context("train", arguments).params
    del values["as_json"], values["config"]
    made = plan_from(values)
    assert isinstance(made, TrainingPlan)
    return made


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


# --- the vocabulary --------------------------------------------------------------------------------------------------


def test_characters_for_chinese_and_pieces_of_words_for_the_rest() -> None:
    texts = ["房间很干净", "房间很脏，WiFi 很慢", "干净！ walking talking", "脏慢 walked talked wifi，！"]
    tokenizer = learn_tokenizer(texts)
    assert tokenizer.tokenize("房间很干净") == ["房", "间", "很", "干", "净"]
    assert tokenizer.tokenize("WiFi慢") == ["wifi", "慢"]
    assert tokenizer.tokenize("talk") != ["[UNK]"], "a word that was never seen is made of pieces"
    assert any(token.startswith("##") and len(token) > 3 for token in tokenizer.get_vocab())
    assert [tokenizer.convert_tokens_to_ids(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 1, 2, 3]
    chinese = [token for token in tokenizer.get_vocab() if any("\u4e00" <= c <= "\u9fff" for c in token)]
    assert sorted(chinese) == sorted("房间很干净脏慢")


def test_a_character_seen_once_is_unknown() -> None:
    """So that [UNK] is trained: here 鑫 in one text of three."""
    tokenizer = learn_tokenizer(["房间", "房间", "房间鑫"])
    assert tokenizer.tokenize("房鑫间") == ["房", "[UNK]", "间"]


def test_full_width_characters() -> None:
    """Full-width punctuation stands alone, full-width letters are lower-cased; neither becomes [UNK]."""
    tokenizer = learn_tokenizer(["ＷＩＦＩ好！", "ＷＩＦＩ差，", "好！差，"])
    assert tokenizer.tokenize("好！ＷＩＦＩ，差") == ["好", "！", "ｗｉｆｉ", "，", "差"]


def test_the_size_is_a_limit() -> None:
    texts = [f"{a}{b}{c}{d}" for a in "abcd" for b in "efgh" for c in "ijkl" for d in "mnop"] * 2
    assert len(learn_tokenizer(texts, size=60)) == 60


def test_the_same_vocabulary_in_every_process() -> None:
    """The library's own ids follow a hash table that differs from process to process."""
    code = (
        "import random; from neurotool.train.scratch import learn_tokenizer\n"
        "r = random.Random(0)\n"
        "words = [''.join(r.choices('abcdefghij', k=r.randint(2, 6))) for _ in range(1200)]\n"
        "texts = [' '.join(words[i::60]) for i in range(60)]\n"
        "print(sorted(learn_tokenizer(texts, 150).get_vocab().items()))"
    )
    found = {
        hashlib.sha256(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout).hexdigest()
        for _ in range(3)
    }
    assert len(found) == 1


# --- the teacher -----------------------------------------------------------------------------------------------------


def test_the_seed_decides(options: Options, chinese: Path) -> None:
    data = load_data(chinese)
    first, again = (scratch_teacher(plan(options()), data).model.state_dict() for _ in range(2))
    other = scratch_teacher(plan(options("--seed", "1")), data).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_its_tokenizer_survives_the_cache(options: Options, chinese: Path, tmp_path: Path) -> None:
    data = load_data(chinese)
    loaded = scratch_teacher(plan(options()), data)
    store_teacher(loaded.model, loaded.tokenizer, tmp_path / "kept")
    kept = load_teacher(str(tmp_path / "kept"), data.task)
    assert kept.has_head and kept.model.config.max_position_embeddings == 32
    texts = ["房间很好，wifi差！", "Ｗ 房"]
    assert kept.tokenizer(texts)["input_ids"] == loaded.tokenizer(texts)["input_ids"]


def test_too_few_texts(options: Options, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("train", "validation"):
        (few / f"{name}.tsv").write_text("sentence\tlabel\n好\t1\n差\t0\n", encoding="utf-8")
    result = run("train", *options("--data", str(few)))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "teacher scratch: 2 training texts are too few, it needs at least 50" in result.stderr
    rows = "".join(f"{chr(0x4E00 + i)}\t{i % 2}\n" for i in range(60))
    (few / "train.tsv").write_text(f"sentence\tlabel\n{rows}", encoding="utf-8")
    result = run("train", *options("--data", str(few)))
    assert result.exit_code == 2 and "no character occurs twice in the 60 training texts" in result.stderr
    with pytest.raises(TeacherError):
        scratch_teacher(plan(options()), load_data(few))


def test_defaults_depend_on_the_teacher() -> None:
    assert (plan(["--teacher", "x"]).teacher_epochs, plan(["--teacher", "x"]).teacher_learning_rate) == (2.0, 5e-5)
    assert (plan(["--teacher", "scratch"]).teacher_epochs) == 5.0
    assert plan(["--teacher", "scratch"]).teacher_learning_rate == 5e-4
    assert plan(["--teacher", "scratch", "--teacher-epochs", "1"]).teacher_epochs == 1.0


# --- a run -----------------------------------------------------------------------------------------------------------


def test_from_reviews_to_answers(options: Options, tmp_path: Path) -> None:
    said = io.StringIO()
    result = train(plan(options("--epochs", "6")), Console(file=said, width=80))
    assert result.teacher["accuracy"] > 0.9 and result.student.metrics["accuracy"] > 0.75
    assert "not pretrained" in said.getvalue() and "from these 160 texts alone" in said.getvalue()
    record = read_checkpoint(result.output).training["teacher"]
    assert record["name"] == "scratch" and record["shape"]["hidden_size"] == 32
    assert record["from_scratch"] == {"texts": 160, "vocabulary": record["shape"]["vocab_size"]}

    answers = [json.loads(run("predict", result.output, text, "--json").stdout) for text in ("房间好", "房间差")]
    assert [answer["label"] for answer in answers] == ["1", "0"]
    energy = run("energy", "report", result.output, "--data", "房间好", "--format", "json")
    assert energy.exit_code == 0, energy.output
    bundle = tmp_path / "model.lava"
    assert run("export", result.output, "--target", "lava", "-o", bundle).exit_code == 0
    emulated = run("run", bundle, "房间好", "房间差", "--backend", "emulator")
    assert emulated.exit_code == 0, emulated.output


def test_it_is_kept_and_found_again(options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ("--teacher-epochs", "1", "--epochs", "1")
    first = train(plan(options(*short)), QUIET)
    assert [folder.name[:8] for folder in (tmp_path / "cache" / "teachers").iterdir()] == ["scratch-"]
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "run_trainer", lambda *_: pytest.fail("trained again"))
        second = train(plan(options(*short, output="second.ckpt")), QUIET)
        patch.setattr(scratch, "SHAPE", TINY | {"intermediate_size": 48})
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            train(plan(options(*short, output="third.ckpt")), QUIET)
    assert first.teacher == second.teacher and (first.student.logits == second.student.logits).all()
    assert read_checkpoint(second.output).training["teacher"]["from_scratch"]["texts"] == 160


def test_ctrl_c_and_resume(options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while the teacher learns: nothing is in the cache, and the resumed run ends as an uninterrupted one."""
    short = ("--teacher-epochs", "2", "--epochs", "1")
    whole = train(plan(options(*short)), QUIET)
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "other"))
    step = Trainer.training_step
    count = 0

    def interrupted(self: Trainer, *arguments: object, **named: object) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(plan(options(*short, output="stopped.ckpt")), QUIET)
    assert count == 5 and not list((tmp_path / "other").rglob("*.safetensors"))
    resumed = train(plan(options(*short, "--resume", output="stopped.ckpt")), QUIET)
    assert (resumed.student.logits == whole.student.logits).all()


# --- a Chinese teacher by folder -------------------------------------------------------------------------------------


def test_a_chinese_teacher_by_folder(options: Options, tmp_path: Path) -> None:
    """As published ones come: vocab.txt of characters, a tokenizer_config.json, no tokenizer.json."""
    folder = tmp_path / "tiny-chinese"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "。", *dict.fromkeys(FILLERS + GOOD + BAD)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, initializer_range=0.15, **TINY)
        BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": BertTokenizer.__name__}))
    said = io.StringIO()
    result = train(plan(options("--teacher", str(folder))), Console(file=said, width=80))
    assert result.teacher["accuracy"] > 0.9
    assert read_checkpoint(result.output).training["teacher"]["from_scratch"] is None
    assert "scratch" not in said.getvalue()


def test_truncation_counts_characters(options: Options, chinese: Path) -> None:
    """Of the longest review, 12 fillers, one judgement and a full stop, 6 fit between [CLS] and [SEP]."""
    said = io.StringIO()
    train(plan(options("--max-length", "8", "--teacher-epochs", "1", "--epochs", "1")), Console(file=said, width=80))
    rows = (chinese / "train.tsv").read_text(encoding="utf-8-sig").splitlines()
    longer = sum(len(row.split("\t")[0]) > 6 for row in rows[1:])
    assert f"train: {longer} of 160 texts are longer than 8 tokens: cut" in said.getvalue()


def test_a_word_that_no_vocabulary_holds_is_not_learned_from() -> None:
    """Learning takes the square of a word's length; WordPiece reads more than 100 characters as [UNK] anyway."""
    texts = ["a good film", "a dull film", "good good dull"] * 20
    plain = learn_tokenizer(texts).get_vocab()
    assert learn_tokenizer([*texts, "a " + "good" * 100_000 + " film"]).get_vocab() == plain
    assert "good" in learn_tokenizer([*texts, "x" * 100]).get_vocab()
