"""Can a network of SpikeBERT's form compare two sentences? Small students, from random weights, on pairs of four words:
B holds A's words in another order, or none of them, which no bag of single words tells. Fresh pairs in every step.

    python benchmarks/two_sentences.py ann no-softmax dense spikebert norm softmax ternary-softmax
    python benchmarks/two_sentences.py --data MRPC softmax    # untrained, as it starts from its teacher

ann: BERT's encoder; no-softmax: its scores as they are, divided by the tokens; dense: SpikeBERT's network with the
steady state of its rates in place of spikes; the others: SpikeBERT, T = 4.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from neurotool.student import STUDENTS, Student
from neurotool.student.emission import SteadyState
from neurotool.tasks import load_data, tokenise
from neurotool.texts import INPUTS, pad
from neurotool.train.initialise import copy_teacher
from neurotool.train.recipes import SELECTIVE
from neurotool.train.teacher import DEMO_TEACHER, load_teacher

WORDS, LENGTH = 24, 4
NORM = {"attention_norm": True, "attention_v_threshold": 1.0}
SOFTMAX = {"attention_softmax": True} | SELECTIVE
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ann": ("ann", {}),
    "no-softmax": ("ann", {}),
    "dense": ("spikebert", {}),
    "dense-norm": ("spikebert", NORM),
    "spikebert": ("spikebert", {}),
    "scale": ("spikebert", {"attention_scale": 1 / 64}),
    "norm": ("spikebert", NORM),
    "ternary": ("spikebert", {"spikes": "ternary"}),
    "ternary-norm": ("spikebert", NORM | {"spikes": "ternary"}),
    "softmax": ("spikebert", SOFTMAX),
    "ternary-softmax": ("spikebert", SOFTMAX | {"spikes": "ternary"}),
}
SHAPE = {
    "vocab_size": WORDS + 4,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 2 * LENGTH + 4,
    "num_labels": 2,
    "initializer_range": 0.05,
}


def pairs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids and token_type_ids (count, 11), labels (count,)."""
    words = torch.rand(count, WORDS, generator=generator).argsort(1) + 4
    labels = torch.randint(2, (count,), generator=generator)
    first = words[:, :LENGTH]
    second = torch.where(labels[:, None] == 1, first, words[:, LENGTH : 2 * LENGTH])
    second = second.gather(1, torch.rand(count, LENGTH, generator=generator).argsort(1))
    start, end = torch.full((count, 1), 1), torch.full((count, 1), 2)
    types = torch.arange(2 * LENGTH + 3) > LENGTH + 1
    return torch.cat([start, first, end, second, end], 1), types.long().expand(count, -1), labels


def linear_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    scores = query @ key.transpose(-1, -2) * attn_mask / query.shape[-1] ** 0.5
    return scores @ value / attn_mask.sum(-1, keepdim=True)


def learn(name: str, layers: int, steps: int, rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    kind, values = KINDS[name]
    student = STUDENTS[kind](STUDENTS[kind].config_class(**SHAPE | values | {"num_hidden_layers": layers}))
    if name == "no-softmax":
        F.scaled_dot_product_attention = linear_attention
    generator = torch.Generator().manual_seed(seed + 1)

    def logits(ids: Tensor, types: Tensor) -> Tensor:
        if not name.startswith("dense"):
            answer: Tensor = student(ids, token_type_ids=types, output_rates=False).logits
            return answer
        mask = torch.ones_like(ids)
        return student.readout(student._sweep(student.embed(ids, types), mask)(SteadyState()), mask)

    optimizer = torch.optim.AdamW(student.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 100) * max(0, 1 - s / steps))
    for step in range(1, steps + 1):
        ids, types, labels = pairs(32, generator)
        optimizer.zero_grad()
        F.cross_entropy(logits(ids, types), labels).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            with torch.no_grad():
                ids, types, labels = pairs(1024, generator)
                right = (logits(ids, types).argmax(-1) == labels).float().mean()
            print(f"{name}, {layers} layers, step {step}: accuracy {right:.3f}", flush=True)


@torch.no_grad()
def start(name: str, layers: int, folder: Path) -> None:
    """Rates of the attention's neurons on validation pairs, and how far A's mean over tokens goes when B is that of
    another pair, in standard deviations between texts."""
    data = load_data(folder)
    teacher = load_teacher(DEMO_TEACHER, data.task)
    model: BertForSequenceClassification = teacher.model
    kind, values = KINDS[name]
    shape = {setting: getattr(model.config, setting) for setting in Student.shares}
    student = STUDENTS[kind](STUDENTS[kind].config_class(**shape | values | {"num_hidden_layers": layers})).eval()
    copy_teacher(student, model, tuple(round(i * model.config.num_hidden_layers / layers) for i in range(layers + 1)))
    texts = data.validation.select(range(48))
    seconds = texts["sentence2"]
    others = texts.remove_columns("sentence2").add_column("sentence2", [*seconds[1:], seconds[0]])

    def first(pairs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = tokenise(pairs, teacher.tokenizer, 96)[0]
        batch = dict(pad(teacher.tokenizer, {column: tokens[column][:] for column in INPUTS}))
        output = student(**batch)
        of_first = (batch["attention_mask"] * (1 - batch["token_type_ids"]))[..., None]
        rates = {layer: rate[batch["attention_mask"].bool()].abs().mean() for layer, rate in output.rates.items()}
        return (output.hidden[-1] * of_first).sum(1) / of_first.sum(1), rates

    (ours, rates), (theirs, _) = first(texts), first(others)
    moved = ((ours - theirs).square().sum(1).mean() / (ours - ours.mean(0)).square().sum(1).mean()).sqrt()
    fired = ", ".join(f"{rate:.2f}" for layer, rate in rates.items() if layer.endswith(".attention"))
    print(f"{name}, {layers} layers: attention fires at {fired}; another B moves A by {moved:.2f} deviations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=KINDS)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    softmax = F.scaled_dot_product_attention
    for name in options.kinds:
        F.scaled_dot_product_attention = softmax
        run = functools.partial(learn, steps=options.steps, rate=options.rate, seed=options.seed)
        start(name, options.layers, options.data) if options.data else run(name, options.layers)


if __name__ == "__main__":
    main()
