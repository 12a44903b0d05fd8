"""`neurotool train`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from neurotool.cli.options import PATH, json_option
from neurotool.errors import ConfigError
from neurotool.terminal import console
from neurotool.train.options import DEFAULTS, PER_CHANNEL
from neurotool.train.ranges import RANGES, range_of
from neurotool.train.recipes import PRESETS, RECIPES, defaults_text, teacher_default

TASKS = "sst2, cola, mrpc, qqp, qnli, rte, mnli, stsb, rotten_tomatoes, demo"  # tasks.TASK_NAMES: slow to import


EPILOG = """\b
Examples:
  neurotool train --preset fast
  neurotool train --data DIR --teacher bert-base-uncased -T 4 -o model.ckpt
  neurotool train --data DIR --spikes ternary -T 2 --corpus texts.txt
  neurotool train --data DIR --student spikebert --corpus texts.txt
  neurotool train --data DIR --student snn-textcnn --kernel-sizes 3,4,5
  neurotool train --data DIR --student streaming --layers 2
  neurotool train --data DIR --preset best
  torchrun --nproc-per-node 2 -m neurotool train --data DIR

Without --data and --task it is the demo: MiniLM-L6 teaches on movie reviews; `make demo` adds --preset fast.

Every run leaves its options in run.toml in its folder: `neurotool train --config run.toml` repeats it.

T (--time-steps) is how many steps a neuron has to say its rate: binary spikes give T + 1 levels, ternary 2T + 1.
Graded messages say as much as ternary spikes in one step.
`neurotool evaluate model.ckpt --time-steps 1,2,4,8` and `--convergence` show what T buys.
"""


def _threshold(context: click.Context, option: click.Parameter, value: str | None) -> float | str | None:
    if value is None or value in ("learned", PER_CHANNEL):
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor 'learned' nor '{PER_CHANNEL}'") from None


def _layer_map(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int | None, ...] | None:
    if value is None:
        return None
    try:
        return tuple(None if part == "-" else int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers, or '-', such as 0,-,6,9,12") from None


def _preset(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """The preset's options become defaults, after those of --config."""
    if value is not None:
        context.default_map = {**PRESETS[value].options, **(context.default_map or {})}
        context.meta["preset"] = value
    return value


@contextmanager
def _preset_named() -> Iterator[None]:
    """A refusal of an option that nobody typed says which preset set it."""
    context = click.get_current_context()
    preset = context.meta.get("preset")
    try:
        yield
    except ConfigError as error:
        option = str(error).removeprefix("--").partition(" ")[0].rstrip(":,").replace("-", "_")
        given = context.get_parameter_source(option)
        if preset is None or option not in PRESETS[preset].options or given != ParameterSource.DEFAULT_MAP:
            raise
        raise type(error)(f"{error} (--preset {preset} set it)") from error


def _list_presets(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        for name, preset in PRESETS.items():
            click.echo(f"{name}: {preset.title}\n  {_command_line(preset.options)}\n  {preset.reached}")
        context.exit()


def _command_line(options: dict[str, Any]) -> str:
    parts = (f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in options.items())
    return " ".join(part.removesuffix(".0") for part in parts)


def _kernel_sizes(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers, such as 3,4,5") from None


def _columns(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(","))


def _config(context: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    """The file's options become defaults: the command line wins."""
    if value is not None:
        from neurotool.train.config import read_config

        listed = {"layer_map", "kernel_sizes", "text_columns"}  # as on the command line
        given = {
            name: ",".join(map(str, given)) if name in listed else given for name, given in read_config(value).items()
        }
        context.default_map = {**(context.default_map or {}), **given}
    return value


def _with_default(*names: str, **settings: Any) -> Any:
    """An option whose default is the same for all students."""
    default = DEFAULTS[names[-1].lstrip("-").replace("-", "_")]
    return click.option(*names, **settings, default=default, show_default=True)


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
@_with_default("-o", "--output", type=PATH, help="Checkpoint.")
@_with_default(
    "--teacher",
    help="BERT: folder or Hugging Face id; scratch trains a small one on the texts of the task alone.",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    callback=_preset,
    is_eager=True,
    expose_value=False,
    help="A named set of options; those that are given beside it count.",
)
@click.option(
    "--list-presets",
    is_flag=True,
    callback=_list_presets,
    is_eager=True,
    expose_value=False,
    help="Print what each preset means, and what it reached, and exit.",
)
@click.option("--task", default=None, help=f"One of {TASKS}.  [default: demo]")
@click.option("--data", type=PATH, help="Folder with train.* and validation.* files.")
@click.option("--text-columns", callback=_columns, help="Of the data: A, or A,B for pairs.  [default: by name]")
@_with_default("--label-column", help="Of the data.")
@click.option("--metric", help="Main metric, chooses the best epoch; pearson makes scores of integer labels.")
@click.option(
    "--student",
    type=click.Choice(list(RECIPES)),
    help="; ".join(f"{kind}: {recipe.title}" for kind, recipe in RECIPES.items())
    + f".  [default: {DEFAULTS['student']}, or that of --start-from]",
)
@click.option(
    "--input",
    type=click.Choice(["tokens", "spikes"]),
    help="streaming: texts, or a folder of labelled spike recordings, train/CLASS.npz.  [default: tokens]",
)
@_by_student("--layers", type=int, help="Encoder layers of the student.")
@click.option("--hidden-size", type=int, help="Width.  [default: the teacher's]")
@click.option("--intermediate-size", type=int, help="Width of the feed-forward part.  [default: the teacher's]")
@click.option("--heads", type=int, help="Attention heads.  [default: the teacher's]")
@_by_student(
    "-T",
    "--steps-per-token",
    "--time-steps",
    "time_steps",
    type=int,
    help="Steps of a neuron's window (T); streaming: of a token.",
)
@_by_student(
    "--schedule",
    type=click.Choice(["phased", "concurrent"]),
    help="Neuron layers fire one after the other, each for T steps, or all together.",
)
@_by_student(
    "--spikes",
    type=click.Choice(["binary", "ternary", "graded"]),
    help="0 and 1; -1, 0 and 1; or one message a window with a count from -T to T.",
)
@click.option("--dead-zone", type=float, help="Graded: levels below which nothing is sent.  [default: 0.5]")
@_by_student("--leak", type=float, help="Share of the potential kept a step; 1 = IF.")
@_by_student(
    "--reset", type=click.Choice(["soft", "hard"]), help="A spike subtracts the threshold, or empties the neuron."
)
@_by_student("--v-threshold", callback=_threshold, help=f"A value, learned, or {PER_CHANNEL}.")
@click.option("--tau-syn", help="spikes: of synaptic currents, steps, or learned; none: LIF.  [default: learned]")
@click.option("--tau-mem", help="spikes: of potentials, steps, or learned.  [default: learned]")
@click.option("--time-step", type=float, help="spikes: length of a step, in the recordings' unit of time.")
@click.option(
    "--attention-v-threshold",
    type=float,
    help="spikebert: of attention neurons.  [default: 0.25, normed 1, softmax 0.5]",
)
@click.option(
    "--attention-scale", type=float, help="spikebert: factor of attention products.  [default: 0.125, softmax 0.5]"
)
@click.option(
    "--attention-norm", is_flag=True, help="spikebert: a LayerNorm of attention products, which grow with the tokens."
)
@click.option(
    "--attention-softmax", is_flag=True, help="spikebert: a softmax of attention scores, which then select tokens."
)
@click.option(
    "--positions", type=click.Choice(["learned", "none"]), help="spikebert: none is the paper's.  [default: learned]"
)
@click.option("--kernel-sizes", callback=_kernel_sizes, help="snn-textcnn: tokens of each.  [default: 3,4,5]")
@click.option("--channels", type=int, help="snn-textcnn: of each convolution.  [default: 100]")
@click.option("--lookahead", type=int, help="streaming: tokens by which the answer comes later.  [default: 0]")
@click.option("--taps", type=int, help="streaming: earlier tokens that are read directly, too.  [default: 0]")
@click.option("--v-init", type=float, help="Potential before a window, in thresholds.  [default: 0.5, ternary 0]")
@click.option("--feedback", is_flag=True, help="Feed the last layer's rate back to the first.")
@click.option(
    "--activation",
    type=click.Choice(["gelu", "relu"]),
    help="spikingbert: of the feed-forward part; relu is sparser.  [default: gelu]",
)
@click.option(
    "--pooling",
    type=click.Choice(["mean", "cls"]),
    help="The head reads the mean over tokens, or the first token.  [default: mean]",
)
@_with_default("--dropout", type=float, help="Of the student, in training.")
@_by_student(
    "--init",
    type=click.Choice(["auto", "teacher", "fitted", "random"]),
    help="What the student starts from; auto is the teacher where widths agree, its words if narrower; fitted: "
    "spikebert's layers, each fitted to what the teacher's says.",
)
@click.option("--layer-map", callback=_layer_map, help="Teacher hidden states, e.g. 0,3,6,9,12, or 0,-,6,9,12.")
@_by_student("--max-shift", type=float, help="Fit of binary spikes; 0 = sparser.")
@click.option("--corpus", help="Unlabelled text for general distillation: file, folder, dataset id, or demo.")
@click.option("--max-texts", type=int, help="Read only so many passages of the corpus.")
@_with_default("--corpus-length", type=int, help="Tokens of a piece of the corpus.")
@_with_default("--general-epochs", type=float, help="Used with --corpus.")
@_with_default("--augment", type=int, help="Variants of every text, labelled by the teacher.")
@_with_default("--inner-epochs", type=float, help="Embedding, hidden, attention only.")
@_by_student("--epochs", type=float, help="Prediction stage.")
@_by_student("--learning-rate", type=float, help="Inner and prediction stage.")
@_by_student("--general-soft-weight", type=float, help="Teacher's logits on corpus.")
@_by_student("--general-learning-rate", type=float, help="Used with --corpus.")
@_with_default("--batch-size", type=int, help="Over all processes.")
@_with_default("--accumulate", type=int, help="Parts that a batch is worked off in, to save memory.")
@_by_student("--embedding-weight", type=float, help="Teacher's embeddings.")
@_by_student("--hidden-weight", type=float, help="Teacher's hidden states.")
@_by_student("--attention-weight", type=float, help="Teacher's attention scores.")
@_with_default("--relation-weight", type=float, help="How alike its queries, keys, values are.")
@_by_student("--inner-share", type=float, help="Share of the four above in prediction.")
@_by_student("--soft-weight", type=float, help="Teacher's logits.")
@_by_student("--prefix-weight", type=float, help="Of them, for the answer after every token: streaming.")
@_by_student("--hard-weight", type=float, help="True labels.")
@_with_default("--temperature", type=float, help="Of the teacher's logits.")
@_with_default("--rate-penalty", type=float, help="Weight of the mean spiking rate.")
@click.option(
    "--start-from",
    type=PATH,
    help="A trained student to start as; it gives the defaults of options that say what a student is.",
)
@click.option("--start-teaches", is_flag=True, help="It also teaches, in place of the BERT.")
@click.option("--event-target", type=float, help="Events per synapse to reach, e.g. 0.15; windows of T steps only.")
@click.option("--relu-penalty", type=float, help="Of --activation relu: weight of its rates, which rises (ProSparse).")
@click.option("--relu-shift", type=float, help="Of --activation relu: levels its neurons send later in the end.")
@click.option("--prune", type=float, help="Share of the weights that become 0, e.g. 0.5.")
@click.option(
    "--prune-scope",
    type=click.Choice(["layer", "global"]),
    help="That share of each matrix, or of all together.  [default: layer, or as --start-from was pruned]",
)
@click.option(
    "--weight-penalty",
    type=float,
    help="Taken off the size of every weight, in mean sizes of its matrix, e.g. 0.6; small ones become 0.",
)
@click.option(
    "--integer-aware", is_flag=True, help="Parameters that export's integers hold; then both send the same spikes."
)
@click.option("--weight-bits", type=int, help="8, 4, 2 or 1: of a weight, trained as export writes it.")
@_by_teacher("--teacher-epochs", type=float, help="If it has no head.")
@_by_teacher("--teacher-learning-rate", type=float, help="If it has no head.")
@click.option("--max-length", type=int, help="Tokens; longer texts are cut.  [default: 128, or as --start-from]")
@_by_student("--weight-decay", type=float, help="Of AdamW, in the student's stages.")
@click.option(
    "--layer-decay", type=float, help="Learning rates fall by this factor a layer from the head down, e.g. 0.8."
)
@_with_default("--warmup", type=float, help="Share of the steps.")
@click.option("--ema", type=float, help="Decay of a moving average of the weights, which is kept, e.g. 0.99.")
@click.option("--bf16", is_flag=True, help="bfloat16 autocast.")
@_with_default(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    help="Layers by torch.compile, fewer passes over memory; auto: in long runs, where there is a compiler.",
)
@click.option(
    "--gradient-checkpointing",
    is_flag=True,
    help="spikebert: blocks run anew in the backward pass: a fifth less memory, more time.",
)
@click.option(
    "--cache-teacher",
    is_flag=True,
    help="Ask the teacher once a text and keep the answers in a file, about 10 to 20 KB a token.",
)
@click.option("--fsdp", is_flag=True, help="Processes of torchrun share out parameters and optimiser: less memory.")
@_with_default("--seed", type=int, help="Of everything random.")
@click.option(
    "--run-folder",
    type=PATH,
    help="Logs, and the state for --resume.  [default: runs/NAME beside the output, NAME being the output's]",
)
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--force", is_flag=True, help="Replace the output and start over.")
@click.option(
    "--config", type=PATH, callback=_config, is_eager=True, help="Options from a run.toml; those given here win."
)
@json_option
def train(as_json: bool, config: Path | None, **options: Any) -> None:
    """Distil a BERT teacher into a spiking student, or into its rival without spikes."""
    from neurotool.train.options import plan_from
    from neurotool.train.pipeline import train as run
    from neurotool.train.trainer import is_first_process

    preset = click.get_current_context().meta.get("preset")
    if preset is not None and PRESETS[preset].continues and options["start_from"] is None:
        raise ConfigError(f"--preset {preset}: goes on with a trained student; give it with --start-from")
    with _preset_named():
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
            "events_per_synapse": result.events_per_synapse,
            "zero_weights": result.zero_weights,
            "seconds": result.seconds,
        }
        click.echo(json.dumps(report))
        return
    main = next(iter(student.metrics))
    if result.teacher:
        kept = student.metrics[main] / result.teacher[main] if result.teacher[main] else float("nan")
        click.echo(f"teacher  {main} {result.teacher[main]:.4f} on {len(student.labels)} held-out examples")
        click.echo(f"student  {main} {student.metrics[main]:.4f} ({kept:.1%} of the teacher's)")
    else:
        click.echo(f"student  {main} {student.metrics[main]:.4f} on {len(student.labels)} held-out recordings")
    if student.activity.layers:
        rate, steps = f"{student.activity.mean_rate:.3f}", student.activity.time_steps
        graded = plan.student.get("spikes") == "graded"
        sent = f"{rate} graded messages a neuron and window" if graded else f"mean spiking rate {rate} at T = {steps}"
        click.echo(f"         {sent}")
    if result.events_per_synapse is not None and plan.event_target is not None:
        click.echo(f"         {_reached(result.events_per_synapse, plan.event_target)}")
    if result.zero_weights is not None:
        click.echo(f"         {result.zero_weights:.1%} of the weights between neuron layers are 0")
    click.echo(f"wrote {result.output} after {result.seconds:.0f} s")


def _reached(density: float, target: float) -> str:
    from neurotool.train.trainer import TOLERANCE

    reached = density <= target * (1 + TOLERANCE)
    remedy = "" if reached else ", which was not reached: more --epochs, or once more with --start-from"
    return f"{density:.3f} events per synapse of {target:g} asked for{remedy}"


for _option in train.params:
    if isinstance(_option, click.Option) and (_name := range_of(_option.name or "")):
        _option.help = f"{_option.help}  [{RANGES[_name]}]"
