"""What tests/test_sharding.py starts under torchrun: trainings one after the other, and what each process saw of them.

    torchrun --nproc-per-node 2 tests/two_processes.py RUNS.json FOLDER

RUNS.json: a list of {"options": of `neurotool train`, "stop": [stage, step] where Ctrl-C comes, or null}. Writes
FOLDER/RANK.json: for each run the tokenised texts, and, by stage, values held of the trained parameters and of the
optimiser's averages at its last step.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase, Trainer

from neurotool.cli.train import train as command
from neurotool.train.options import plan_from
from neurotool.train.pipeline import train

CONSOLE = Console(stderr=True)


def local(tensor: Any) -> int:
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).numel()


def run(options: list[str], stop: tuple[str, int] | None) -> dict[str, Any]:
    seen: dict[str, Any] = {"texts": [], "held": {}}
    call, step = PreTrainedTokenizerBase.__call__, Trainer.training_step

    def count(self: Any, text: Any, *arguments: Any, **named: Any) -> Any:
        seen["texts"] += [text] if isinstance(text, str) else list(text)
        return call(self, text, *arguments, **named)

    def note(self: Trainer, *arguments: Any) -> Any:
        stage = Path(self.args.output_dir).name
        if [stage, self.state.global_step + 1] == stop:
            signal.raise_signal(signal.SIGINT)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        averages = [state["exp_avg"] for state in self.optimizer.state.values() if "exp_avg" in state]
        seen["held"][stage] = [sum(map(local, parameters)), sum(map(local, averages))]
        return step(self, *arguments)

    PreTrainedTokenizerBase.__call__, Trainer.training_step = count, note
    given = command.make_context("train", list(options)).params
    del given["as_json"], given["config"]
    try:
        train(plan_from(given), CONSOLE)
    except KeyboardInterrupt:
        seen["stopped"] = True
    finally:
        PreTrainedTokenizerBase.__call__, Trainer.training_step = call, step
    return seen


if __name__ == "__main__":
    runs, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    seen = [run(**one) for one in runs]
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(seen))
