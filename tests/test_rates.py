"""Learning rates that fall from the head down, and what they leave as it was."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from transformers import Trainer

from neurotool.student import STUDENTS
from neurotool.train.distiller import Distiller, LossWeights
from neurotool.train.pipeline import train
from neurotool.train.rates import parameter_groups
from neurotool.train.trainer import DistillationTrainer

TINY = {
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 8,
}


@pytest.mark.parametrize("kind", ["spikingbert", "spikebert", "ann", "snn-textcnn", "streaming"])
def test_every_trained_parameter_has_the_rate_of_its_depth(kind: str) -> None:
    lacks = STUDENTS[kind].config_class.lacks
    student = STUDENTS[kind](STUDENTS[kind].config_class(**{k: v for k, v in TINY.items() if k not in lacks}))
    distiller = Distiller(student, 8, (0, 1, 2, 3)[: len(student.layers) + 1], LossWeights())
    names = {id(parameter): name for name, parameter in distiller.named_parameters()}
    decayed = [name for name in names.values() if name.endswith("weight")]
    groups = parameter_groups(distiller, student, decayed, 0.1, 0.01, 0.5)
    assert groups[0]["lr"] == 0.1  # which is the one that is logged
    seen = {}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["weight_decay"] == (0.01 if name in decayed else 0), name
            seen[name] = group["lr"]
    assert seen.keys() == {name for name, parameter in distiller.named_parameters() if parameter.requires_grad}
    depth = student.config.num_hidden_layers + 1
    for name, rate in seen.items():
        if name.startswith("student.embedding"):
            assert rate == 0.1 * 0.5**depth, name
        elif name.startswith(("student.layers.", "student.blocks.")):
            assert rate == 0.1 * 0.5 ** (depth - 1 - int(name.split(".")[2])), name
        else:
            assert rate == 0.1, name
    assert len(set(seen.values())) == depth + 1
    assert {seen["fit.weight" if student.hands_on_rates else "fit.0.0.weight"], seen["student.classifier.bias"]} == {
        0.1
    }


def test_training_uses_them_and_without_a_decay_nothing_changes(
    make_plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser that a stage makes: by default transformers' own groups, in their order."""
    made: list[list[list[tuple[Any, ...]]]] = []
    create = DistillationTrainer.create_optimizer

    def read(optimizer: Any) -> list[tuple[Any, ...]]:
        return [(g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in optimizer.param_groups]

    def note(self: DistillationTrainer, *arguments: Any) -> Any:
        made.append([read(Trainer.create_optimizer(self)), read(create(self))])
        return self.optimizer

    monkeypatch.setattr(DistillationTrainer, "create_optimizer", note)
    train(make_plan("--epochs", "1"), Console(quiet=True))
    train(make_plan("--epochs", "1", "--layer-decay", "0.5", output="b.ckpt"), Console(quiet=True))
    (theirs, ours), (_, falling) = made
    assert ours == theirs
    rates = sorted({rate for rate, *_ in falling})
    assert rates == pytest.approx([3e-3 / 8, 3e-3 / 4, 3e-3 / 2, 3e-3])  # embedding, two layers, head
