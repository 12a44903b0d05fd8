"""What a token costs a streaming student, and its teacher, in texts of 16 to 4,096 tokens. A Markdown table.

    python benchmarks/streaming_cost.py model.ckpt texts.tsv [--write docs/streaming.md]

Operations are counted, not timed: spikes that the student really sends on the texts of the table, one after the other;
multiply-accumulates of the teacher from its shape. State is what must be kept until the next token: potentials and
currents of the student, keys and values of the teacher's attention. --write puts the table between its two markers.
"""

from pathlib import Path

import click
import numpy as np
import torch
from table import write

from neurotool.activity import Activity
from neurotool.api.model import Model, open_model
from neurotool.energy.counts import Counts, count, events_of_activity
from neurotool.energy.dense import dense_counts, dense_graph, teacher_config
from neurotool.evaluation import _add
from neurotool.graph import CubaLIF
from neurotool.streams import per_token
from neurotool.tasks import load_examples

LENGTHS = (16, 64, 256, 1024, 4096)
HEADER = (
    "| tokens | synaptic operations a token | updates a token | values kept | teacher: MACs a token | "
    "values kept |\n|---|---|---|---|---|---|"
)


def tokens_of(model: Model, texts: Path, count: int) -> list[int]:
    """The first tokens of the texts, without special tokens, one text behind the other."""
    reader, ids = model.reading(), list[int]()
    for text in load_examples(texts, reader.task)["sentence1"]:
        ids += reader.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= count:
            return ids[:count]
    raise click.ClickException(f"{texts}: holds {len(ids)} tokens, {count} are needed")


def counted(model: Model, ids: list[int]) -> Counts:
    """Operations of the student on one text."""
    assert model.student is not None
    student, graph = model.student.model, per_token(model.graph)
    steps = student.config.time_steps
    activity, tokens = Activity(steps, steps), torch.tensor([ids])
    with torch.inference_mode():
        output = student(tokens, output_rates=False, output_spike_counts=True)
    _add(activity, output, student.lasting(torch.ones_like(tokens)), per_neuron=False)
    return count(graph, activity, events_of_activity(graph, activity))


def row(model: Model, ids: list[int]) -> str:
    assert model.student is not None
    counts, n = counted(model, ids), len(ids)
    graph, config = model.graph, teacher_config(model.student.checkpoint.config, model.record)
    shapes = graph.shapes()
    states = {name: 1 + isinstance(graph.nodes[name], CubaLIF) for name in counts.activity.layers}
    kept = sum(int(np.prod(shapes[name])) * each for name, each in states.items())
    kept += int(np.prod(shapes[graph.outputs["logits"]]))
    if config is None:
        raise click.ClickException(f"{model.path}: its record does not say the teacher's shape")
    teacher = dense_counts(dense_graph(config, model.student.task.num_labels), counts.activity)
    attended = 2 * n * config["hidden_size"] * config["num_hidden_layers"]
    updates = counts.total().updates
    return (
        f"| {n:,} | {counts.synaptic_operations / n:,.0f} | {updates / n:,.0f} | {kept:,} | "
        f"{teacher.total('dense').macs / n:,.0f} | {attended:,} |"
    )


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("texts", type=click.Path(path_type=Path, exists=True))
@click.option("--write", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Markdown file.")
def main(checkpoint: Path, texts: Path, file: Path | None) -> None:
    torch.set_num_threads(1)
    model = open_model(checkpoint)
    ids = tokens_of(model, texts, max(LENGTHS))
    text = "\n".join([HEADER, *(row(model, ids[:n]) for n in LENGTHS)])
    click.echo(text)
    if file is not None:
        write(text, file, "streaming_cost.py")


if __name__ == "__main__":
    main()
