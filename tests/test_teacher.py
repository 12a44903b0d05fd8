"""The teacher: what can teach, always frozen and in eval mode, and its cache."""

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BertForSequenceClassification

from neurotool.errors import TeacherError
from neurotool.tasks import Task
from neurotool.train import finetuning, pipeline
from neurotool.train.finetuning import evaluate_teacher, learned_nothing
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan
from neurotool.train.reading import check_unknown
from neurotool.train.teacher import Teacher, cache_folder, cache_key, load_teacher, store_teacher
from neurotool.train.trainer import DistillationTrainer

TASK = Task("reviews", ("sentence",), ("negative", "positive"), ("accuracy",))
SCORES = Task("scores", ("sentence",), (), ("pearson",))
MakePlan = Callable[..., TrainingPlan]
QUIET = Console(quiet=True)
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
BATCH = {"input_ids": torch.tensor([[2, 5, 9, 11, 12, 3], [2, 7, 14, 3, 0, 0]]), "attention_mask": MASK}


@pytest.fixture
def copy(tiny_teacher: Path, tmp_path: Path) -> Path:
    """A copy of the tiny teacher that a test may spoil."""
    return Path(shutil.copytree(tiny_teacher, tmp_path / "copy"))


@pytest.fixture
def headed(copy: Path) -> Path:
    """A teacher with a head of two labels."""
    loaded = load_teacher(str(copy), TASK)
    assert not loaded.has_head
    folder = copy.with_name("headed")
    store_teacher(loaded.model, loaded.tokenizer, folder)
    return folder


def refusal(folder: Path | str, task: Task = TASK) -> str:
    with pytest.raises(TeacherError) as caught:
        load_teacher(str(folder), task)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def change_config(folder: Path, name: str = "config.json", **values: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# --- it teaches in eval mode -----------------------------------------------------------------------------------------


def test_it_never_trains(tiny_teacher: Path) -> None:
    model = load_teacher(str(tiny_teacher), TASK).model
    assert model.config.hidden_dropout_prob == 0.1
    teacher = Teacher(model.train())
    for module in (teacher, torch.nn.ModuleList([teacher])):
        module.train()
        assert not any(part.training for part in model.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    first, second = (teacher(BATCH, (0, 2), (1, 2)) for _ in range(2))
    assert torch.equal(first.logits, second.logits) and not first.logits.requires_grad
    for a, b in zip(first.hidden + first.attention[0], second.hidden + second.attention[0], strict=True):
        assert torch.equal(a, b)


def test_scores_are_those_before_the_softmax(tiny_teacher: Path) -> None:
    teacher = Teacher(load_teacher(str(tiny_teacher), TASK).model)
    eager = BertForSequenceClassification.from_pretrained(tiny_teacher, attn_implementation="eager").eval()
    with torch.no_grad():
        wanted = eager(**BATCH, output_attentions=True, output_hidden_states=True)
    taught = teacher(BATCH, (0, 1, 2), (1, 2))
    for ours, theirs in zip(taught.hidden, wanted.hidden_states, strict=True):
        torch.testing.assert_close(ours[MASK.bool()], theirs[MASK.bool()])
    for read, attention in zip(taught.attention, wanted.attentions, strict=True):
        assert read.scores.shape == (2, 2, 6, 6)
        ours = read.scores.masked_fill(MASK[:, None, None] == 0, -math.inf).softmax(-1)
        torch.testing.assert_close(ours, attention)
    part = teacher(BATCH, (), (2,))
    assert part.hidden == () and torch.equal(part.attention[0].scores, taught.attention[1].scores)
    assert not teacher._projections, "projections of a batch are kept after it"


def test_in_training_it_stays_in_eval_mode(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the evaluations of two stages; and the student, whose dropout must act, is in train mode."""
    seen = []
    compute_loss = DistillationTrainer.compute_loss

    def spy(self: DistillationTrainer, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(any(part.training for part in self.teacher.model.modules()))
        assert model.training and all(part.training for part in self.distiller.student.modules())
        hooks = self.teacher.model.bert.encoder.layer[0].attention.self.query._forward_hooks
        assert len(hooks) == 1, "every stage adds its own hooks"
        return compute_loss(self, model, inputs, *arguments, **options)

    monkeypatch.setattr(DistillationTrainer, "compute_loss", spy)
    train(make_plan("--epochs", "2", "--inner-epochs", "2", "--dropout", "0.1"), QUIET)
    assert len(seen) == 4 * 7 and not any(seen)  # 100 texts in batches of 16: the last, partial one is used


# --- what can teach --------------------------------------------------------------------------------------------------


def test_a_head_is_used_as_it_is(headed: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "run_trainer", lambda *_: pytest.fail("fine-tuned though it has a head"))
    assert load_teacher(str(headed), TASK).has_head
    assert train(make_plan("--teacher", str(headed), "--epochs", "1"), QUIET).output.exists()


def test_a_fine_tuned_teacher_is_cached(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "cache"))
    options = ("--teacher-epochs", "1", "--epochs", "1")
    first = train(make_plan(*options), QUIET)
    assert [folder.name[:5] for folder in (tmp_path / "cache" / "teachers").iterdir()] == ["tiny-"]
    other = make_plan("--teacher-epochs", "2", "--epochs", "1", output="other.ckpt")
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "run_trainer", lambda *_: pytest.fail("fine-tuned again"))
        second = train(make_plan(*options, output="second.ckpt"), QUIET)
        train(make_plan(*options, "--weight-decay", "0.3", output="third.ckpt"), QUIET)
        with pytest.raises(pytest.fail.Exception):
            train(other, QUIET)
    assert second.teacher == first.teacher
    assert (second.student.logits == first.student.logits).all(), "the student depends on whether the cache was filled"


def test_fine_tuning_measures_each_epoch_once(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The teacher's metrics are those of the best epoch, which nobody measures again."""
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "cache"))
    measured: list[dict[str, float]] = []

    def spy(*arguments: Any) -> dict[str, float]:
        metrics = evaluate_teacher(*arguments)
        if len(measured) == 1:  # so that the second epoch is the best
            metrics["accuracy"] = 1.0
        measured.append(metrics)
        return metrics

    monkeypatch.setattr(finetuning, "evaluate_teacher", spy)
    monkeypatch.setattr(pipeline, "evaluate_teacher", lambda *_: pytest.fail("measured once more"))
    trained = train(make_plan("--teacher-epochs", "3", "--teacher-learning-rate", "1e-3", "--epochs", "1"), QUIET)
    assert len(measured) == 3 and trained.teacher == measured[1] and trained.teacher["accuracy"] == 1


def test_what_counts_as_having_learned_nothing() -> None:
    """Labels 1, 1, 0: always 1 is right twice in three. A correlation of 0.2 on 100 scores is two standard errors."""
    classes = datasets.Dataset.from_dict({"labels": [1, 1, 0]})
    assert learned_nothing({"accuracy": 2 / 3}, classes, TASK)
    assert not learned_nothing({"accuracy": 0.67}, classes, TASK)
    scores = datasets.Dataset.from_dict({"labels": [i / 100 for i in range(100)]})
    assert all(learned_nothing({"pearson": r}, scores, SCORES) for r in (-0.5, 0.0, 0.19))
    assert not learned_nothing({"pearson": 0.21}, scores, SCORES)


def test_a_teacher_that_learned_nothing_is_named(make_plan: MakePlan) -> None:
    said = io.StringIO()
    plan = make_plan("--teacher-learning-rate", "1e-9", "--teacher-epochs", "1", "--epochs", "1")
    train(plan, Console(file=said, width=80))
    assert (
        "warning: the teacher's accuracy is no better than that of giving every text the most frequent"
        in said.getvalue()
    )
    assert "--max-length 128: the teacher has 24 positions" in said.getvalue()
    assert "\nprediction: " in said.getvalue() and " steps\n" in said.getvalue()

    said = io.StringIO()
    untaught = ("--student", "spikformer", "--teacher-learning-rate", "1e-9", "--teacher-epochs", "1", "--epochs", "1")
    train(make_plan(*untaught, output="untaught.ckpt"), Console(file=said, width=80))
    assert "validation accuracy" in said.getvalue() and "warning" not in said.getvalue()


def test_the_cache_key_depends_on_teacher_data_and_settings(copy: Path) -> None:
    def key(data: str = "a", seed: int = 1) -> str:
        return cache_key(str(copy), load_teacher(str(copy), TASK).identity, {"train": data}, {"seed": seed})

    first = key()
    assert first == key() and len({first, key("b"), key(seed=2)}) == 3
    torch.manual_seed(5)  # the head that is made does not count
    assert key() == first
    change_config(copy, hidden_act="relu")
    second = key()
    change_config(copy, "tokenizer_config.json", do_lower_case=False)
    third = key()
    change_weights(copy, lambda weights: weights["embeddings.LayerNorm.bias"].add_(1))
    assert len({first, second, third, key()}) == 4


def test_a_damaged_teacher_in_the_cache_is_made_anew(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "cache"))
    options = ("--teacher-epochs", "1", "--epochs", "1")
    first = train(make_plan(*options), QUIET)
    weights = next(tmp_path.glob("cache/teachers/*/model.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    said = io.StringIO()
    second = train(make_plan(*options, output="second.ckpt"), Console(file=said, width=80))
    assert "what is kept of it cannot be used and is made anew" in said.getvalue()
    assert second.teacher == first.teacher and weights.read_bytes() == whole


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty means unset, as the XDG specification has it."""
    for name in ("NEUROTOOL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/neurotool")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/neurotool")
    monkeypatch.setenv("NEUROTOOL_CACHE", "/ours")
    assert cache_folder() == Path("/ours")
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    for name in ("NEUROTOOL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    assert cache_folder().name.startswith("neurotool-")


# --- what was loaded is what was asked for


def test_unknown_tokens_are_told_or_refused(copy: Path, make_plan: MakePlan) -> None:
    """A cased vocabulary that is read as an uncased one: every word is [UNK]."""
    words = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]
    for file in copy.glob("tokenizer*"):
        file.unlink()
    titled = [word if word.startswith("[") else word.title() for word in words]
    (copy / "vocab.txt").write_text("\n".join(titled) + "\n")
    with pytest.raises(TeacherError, match=r"100% of the tokens .* unknown \(\[UNK\]\); set do_lower_case to false in"):
        train(make_plan("--teacher", str(copy)), QUIET)
    (copy / "vocab.txt").write_text("\n".join(word if word != "w1" else "W1" for word in words) + "\n")
    change = {"do_lower_case": True}
    (copy / "tokenizer_config.json").write_text(json.dumps(change))
    said = io.StringIO()
    tokenizer = load_teacher(str(copy), TASK).tokenizer
    texts = datasets.Dataset.from_dict({"input_ids": [[2, 1, *[7] * count, 3] for count in (9, 13)]})  # 2 of 24
    check_unknown("it", texts, tokenizer, Console(file=said, width=200))
    assert "warning: teacher it: 8% of the tokens of the training texts are unknown ([UNK]); set do" in said.getvalue()
    check_unknown("it", datasets.Dataset.from_dict({"input_ids": [[2, 1, *[7] * 19, 3]]}), tokenizer, said)  # 5 %


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """`change` alters the tensors in place, or returns others."""
    weights = load_file(folder / "model.safetensors")
    changed = change(weights)
    save_file(changed if isinstance(changed, dict) else weights, folder / "model.safetensors", {"format": "pt"})


def rename(folder: Path, new: Callable[[str], str]) -> None:
    change_weights(folder, lambda weights: {new(name): tensor for name, tensor in weights.items()})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "0.auto_model.", "model.bert."])
def test_the_prefix_of_a_wrapper_is_taken_off(copy: Path, headed: Path, prefix: str) -> None:
    for folder in (copy, headed):
        if folder == headed and prefix == "model.bert.":
            continue  # a bare model's names
        plain = load_teacher(str(folder), TASK)
        rename(folder, lambda name: prefix + name)
        wrapped = load_teacher(str(folder), TASK)
        assert wrapped.identity == plain.identity and wrapped.has_head == plain.has_head == (folder == headed)
        shown = prefix.removesuffix("bert.")
        assert wrapped.notes[0] == f"its tensors are named behind a wrapper's {shown!r}, which is taken off"


def test_names_that_old_versions_gave(copy: Path) -> None:
    plain = load_teacher(str(copy), TASK)
    rename(copy, lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"))
    change_weights(
        copy, lambda w: w | {"cls.predictions.bias": torch.zeros(3), "embeddings.position_ids": torch.arange(24)}
    )
    assert load_teacher(str(copy), TASK).identity == plain.identity


def test_a_pooler_is_part_of_a_head_that_is_made(copy: Path, headed: Path) -> None:
    """As in what BertForMaskedLM saves."""
    for folder in (copy, headed):
        change_weights(folder, lambda weights: {n: t for n, t in weights.items() if "pooler" not in n})
    assert not load_teacher(str(copy), TASK).has_head
    assert "2 are missing (bert.pooler.dense.weight, …)" in refusal(headed)


def test_the_head_is_read_from_the_file(copy: Path, headed: Path) -> None:
    change_config(headed, architectures=["BertModel"])
    assert load_teacher(str(headed), TASK).has_head
    change_config(headed, architectures=["BertForTokenClassification"])
    other = load_teacher(str(headed), TASK)
    stored = load_file(headed / "model.safetensors")["classifier.weight"]
    assert not other.has_head and not torch.equal(other.model.classifier.weight, stored)
    assert other.notes == ("its head is another task's (BertForTokenClassification): left out",)
    change_config(headed, architectures=["MyClassifier"])
    assert "names the architecture MyClassifier, whose head is not known" in refusal(headed)
    change_config(copy, architectures=["BertForSequenceClassification"])
    headless = load_teacher(str(copy), TASK)
    assert not headless.has_head and "its file holds none: one is made" in headless.notes[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda n: n.replace("encoder.layer.1.", "encoder.layers.1."), "16 are missing (bert.encoder.layer.1"),
        (lambda n: "encoder.layer.7." + n[16:] if n.startswith("encoder.layer.1.") else n, "16 belong to no layer"),
        (lambda n: f"wrap.{n}", "0 of 41 tensors fit, 37 are missing"),
        (lambda n: n if n.startswith("pooler") else f"module.{n}", "tensors fit, "),
        (lambda n: n.replace("key.bias", "key.biases"), "2 belong to no layer (bert.encoder"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(copy: Path, change: Callable[[str], str], reason: str) -> None:
    rename(copy, change)
    assert reason in refusal(copy)


def test_tensors_of_another_kind(copy: Path) -> None:
    weights = (copy / "model.safetensors").read_bytes()
    for name, change, reason in (
        ("more", lambda w: w | {"encoder.layer.0.attention.distance.weight": torch.ones(3)}, "1 belong to no layer"),
        ("shape", lambda w: w | {"pooler.dense.bias": torch.ones(7)}, "bert.pooler.dense.bias has shape (7,)"),
        ("quantised", lambda w: w | {"pooler.dense.bias": torch.ones(32).to(torch.int8)}, "is of type I8"),
        ("nan", lambda w: w | {"pooler.dense.bias": torch.full((32,), math.nan)}, "values that are not finite"),
    ):  # fmt: skip
        (copy / "model.safetensors").write_bytes(weights)
        change_weights(copy, change)
        assert reason in refusal(copy), name


def test_an_adapter_beside_the_weights(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    assert "has an adapter (adapter_config.json), which is not applied: merge it into the weights" in refusal(copy)


def test_config_fields_that_are_not_honoured(copy: Path) -> None:
    for field, value in (("position_embedding_type", "relative_key"), ("quantization_config", {"bits": 4})):
        config = (copy / "config.json").read_text()
        change_config(copy, **{field: value})
        assert f"its config.json has {field} {value!r}" in refusal(copy)
        (copy / "config.json").write_text(config)
    change_config(copy, use_rotary=True, is_decoder=True, pooler_fc_size=768)
    assert load_teacher(str(copy), TASK).notes == (
        "its config.json has fields that this BERT does not read: use_rotary",
        "its config.json says is_decoder: a token sees only those before it",
    )
    for wrong in ({"hidden_act": "nope"}, {"hidden_size": "x"}, {"num_attention_heads": 0}, {"pad_token_id": 99}):
        config = (copy / "config.json").read_text()
        change_config(copy, **wrong)
        refusal(copy)
        (copy / "config.json").write_text(config)


def test_shards_and_half_precision(copy: Path) -> None:
    plain = load_teacher(str(copy), TASK)
    plain.model.bert.save_pretrained(copy, max_shard_size="20KB")
    (copy / "model.safetensors").unlink()
    assert len(list(copy.glob("*.safetensors"))) > 2 and load_teacher(str(copy), TASK).identity == plain.identity
    index = copy / "model.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace("model-00001", "../model-00001"))
    assert "outside of its folder" in refusal(copy)
    index.write_text(text)
    next(copy.glob("model-00002*")).unlink()
    assert "model-00002" in refusal(copy)
    plain.model.bert.half().save_pretrained(copy)
    half = load_teacher(str(copy), TASK).model
    assert half.dtype == torch.float32
    for name, tensor in plain.model.bert.state_dict().items():
        assert torch.equal(half.bert.state_dict()[name], tensor.half().float())


def test_one_segment_and_pairs(copy: Path) -> None:
    change_config(copy, type_vocab_size=1)
    change_weights(
        copy, lambda w: w | {(n := "embeddings.token_type_embeddings.weight"): w[n][:1].clone()}
    )  # fmt: skip
    assert not load_teacher(str(copy), TASK).has_head
    pairs = Task("pairs", ("premise", "hypothesis"), ("no", "yes"), ("accuracy",))
    assert "type_vocab_size is 1 in its config.json, but its tokenizer tells 2 segments apart" in refusal(copy, pairs)


def test_a_tokenizer_without_ends(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    change_config(copy, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert "puts no [CLS] or [SEP] at a text's ends" in refusal(copy)


def test_the_labels_of_a_head_are_told(headed: Path) -> None:
    change_config(headed, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert load_teacher(str(headed), TASK).notes == (
        "the labels of its head, LABEL_0, LABEL_1, are taken for negative, positive",
    )
    change_config(headed, problem_type="multi_label_classification")
    assert "a head that gives a text several labels" in refusal(headed)


def test_not_a_bert(copy: Path) -> None:
    change_config(copy, model_type="distilbert", architectures=["DistilBertModel"])
    assert "is a 'distilbert' model: only BERT architectures" in refusal(copy)


def test_only_pickled_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    assert "it needs weights as .safetensors" in refusal(copy)


def test_damaged_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "cannot be loaded" in refusal(copy)


def test_no_tokenizer(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer: put its tokenizer.json" in refusal(copy)


def test_a_tokenizer_with_more_words_than_the_embedding(copy: Path) -> None:
    tokenizer = load_teacher(str(copy), TASK).tokenizer
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(copy)
    assert "its tokenizer has 32 tokens, its embedding only 31" in refusal(copy)


def test_missing_folder() -> None:
    assert "give a local folder, or go online for a Hugging Face id" in refusal("/nowhere/teacher")
    assert "give a local folder, or go online" in refusal("nobody/no-such-teacher")


def test_another_number_of_labels(headed: Path) -> None:
    three = Task("three", ("sentence",), ("a", "b", "c"), ("accuracy",))
    assert "has a head for 2 labels, task three has 3" in refusal(headed, three)
    assert "has a head for 2 labels, task scores has 1" in refusal(headed, SCORES)


def test_labels_in_another_order(headed: Path) -> None:
    assert AutoConfig.from_pretrained(headed).id2label == {0: "negative", 1: "positive"}
    change_config(headed, id2label={"0": "POSITIVE", "1": "NEGATIVE"}, label2id={"POSITIVE": 0, "NEGATIVE": 1})
    assert "in the order positive, negative, the data in the order negative, positive" in refusal(headed)
    change_config(headed, id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    assert load_teacher(str(headed), TASK).has_head


def test_a_failed_store_leaves_nothing(headed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_teacher(str(headed), TASK)[:2]

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(OSError):
        store_teacher(model, tokenizer, tmp_path / "cache" / "x")
    assert list((tmp_path / "cache").iterdir()) == []
