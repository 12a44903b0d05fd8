"""What a teacher says of every text, kept in a file: with `--cache-teacher` it runs once and not in every epoch."""

import hashlib
import shutil
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from neurotool.errors import TeacherError
from neurotool.evaluation import batches
from neurotool.files import replacing
from neurotool.student.encoder import Attention
from neurotool.train.progress import say
from neurotool.train.teacher import TeacherOutput, cache_folder, one_at_a_time

POSITION = "position"
"""Column of a text's number among those that the teacher was asked about."""


class KeptOutputs:
    """A teacher's outputs on texts of known lengths, memory-mapped: a row for each token, with the hidden states, then
    query, key and value of each attention, then the logits of the text, which all its tokens repeat."""

    def __init__(self, rows: np.ndarray, lengths: Sequence[int], widths: Sequence[int], heads: int) -> None:
        """widths: of the hidden states, then of each attention's three parts, then of the logits."""
        self.rows, self.lengths, self.widths, self.heads = rows, lengths, widths, heads
        self.starts = [0, *accumulate(lengths)]

    def batch(self, positions: Sequence[int], hidden_layers: int, mask: Tensor) -> TeacherOutput:
        """What the teacher would say of a batch of these texts, with 0 for padding; mask: (batch, tokens)."""
        rows = np.zeros((*mask.shape, sum(self.widths)), self.rows.dtype)
        for row, position in zip(rows, positions, strict=True):
            start, length = self.starts[position], self.lengths[position]
            row[:length] = self.rows[start : start + length]
        *parts, logits = torch.from_numpy(rows).to(mask.device).split(list(self.widths), -1)
        split = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts[hidden_layers:]]
        attention = tuple(Attention(*split[i : i + 3]) for i in range(0, len(split), 3))
        return TeacherOutput(logits[:, 0].float(), tuple(parts[:hidden_layers]), attention)


def keep_outputs(
    teacher: nn.Module,
    texts: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    hidden_layers: Sequence[int],
    attention_layers: Sequence[int],
    bfloat16: bool,
    console: Console,
) -> KeptOutputs:
    """The outputs of `teacher` on `texts`, from the cache, or asked for now and cached. In float16 where training is in
    bfloat16 autocast, which has fewer digits, else in float32.

    Raises TeacherError where there is no room for them.
    """
    device = next(teacher.parameters()).device
    lengths = [len(ids) for ids in texts["input_ids"]]

    def ask(batch: dict[str, Tensor]) -> tuple[list[Tensor], int]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            taught = teacher(batch, hidden_layers, attention_layers)
        read = [x.transpose(1, 2).flatten(2) for attention in taught.attention for x in attention]
        logits = taught.logits[:, None].expand(-1, batch["input_ids"].shape[1], -1)
        heads = taught.attention[0].query.shape[1] if taught.attention else 1
        return [*taught.hidden, *read, logits], heads

    dtype = np.dtype(np.float16 if bfloat16 else np.float32)
    parts, heads = ask(next(batches(texts.select([0]), tokenizer, 1, device))[1])
    widths = [part.shape[-1] for part in parts]
    shape = (sum(lengths), sum(widths))
    layers = [list(hidden_layers), list(attention_layers), dtype.name]
    cached = cache_folder() / "outputs" / f"{_digest(teacher, texts, layers)}.npy"
    with one_at_a_time(cached, "teacher's outputs", "asking for them", console):
        if not cached.exists():
            _check_room(cached, shape[0] * shape[1] * dtype.itemsize)
            starts = [0, *accumulate(lengths)]
            with replacing(cached, error_type=TeacherError) as temporary:
                rows = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
                for positions, batch in batches(texts, tokenizer, 64, device):
                    joined = torch.cat([part.float() for part in ask(batch)[0]], -1).cpu().numpy()
                    for of_text, position in zip(joined, positions, strict=True):
                        rows[starts[position] : starts[position + 1]] = of_text[: lengths[position]]
                rows.flush()
                del rows
            say(console, f"teacher's outputs on {len(lengths)} texts: {cached.stat().st_size / 1e6:.0f} MB in {cached}")
    return KeptOutputs(np.load(cached, mmap_mode="r"), lengths, widths, heads)


def _check_room(cached: Path, size: int) -> None:
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TeacherError(f"{cached.parent}: cannot be made ({error.strerror}); set NEUROTOOL_CACHE") from error
    free = shutil.disk_usage(cached.parent).free
    if size > free:
        raise TeacherError(
            f"--cache-teacher: the outputs take {size / 1e9:.1f} GB, {cached.parent} has {free / 1e9:.1f}; set "
            "NEUROTOOL_CACHE to a folder with room, or leave it out"
        )


def _digest(teacher: nn.Module, texts: datasets.Dataset, layers: Any) -> str:
    """Of the teacher's weights, the texts' tokens, and what is kept of them."""
    digest = hashlib.sha256(repr(layers).encode())
    for name, value in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for rows in texts.select_columns(["input_ids", "token_type_ids"]).iter(1000):
        digest.update(repr(rows).encode())
    return digest.hexdigest()[:24]
