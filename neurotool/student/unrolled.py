"""Students trained through time: all steps of one layer after the other, with a surrogate gradient."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.student.emission import Unrolled
from neurotool.student.encoder import Attention
from neurotool.student.student import Student, StudentOutput

AT_ONCE = 2**23
"""Values of the embedding over all steps. A larger batch is worked off in parts, which training computes again in the
backward pass instead of keeping them: memory then grows no further, for one more forward pass. On the CPU; a GPU takes
what fits its memory at BYTES_A_LAYER for each value and layer."""
BYTES_A_LAYER = 320

HandOn = Callable[[Tensor], None]
"""Called with what the embedding and then each layer hand on, (T * batch, tokens, hidden)."""


class _Part(NamedTuple):
    """Of some texts of a batch. last: what the readout pools; the others as in StudentOutput."""

    last: Tensor
    hidden: list[Tensor]
    rates: dict[str, Tensor]
    spike_counts: dict[str, Tensor]


class UnrolledStudent(Student):
    """The spikes are those of the concurrent schedule, in few large products. What `_sweep` returns takes a HandOn as
    third argument."""

    supports_attention_loss = False
    hands_on_rates = False

    @torch.no_grad()
    def copy_embeddings(self, embeddings: BertEmbeddings) -> None:
        super().copy_embeddings(embeddings)
        self._place_embeddings()

    def _place_embeddings(self) -> None:
        """Bring the embedding of a BERT to where neurons can say it."""
        raise NotImplementedError

    def _run(
        self, current: Tensor, mask: Tensor, time_steps: int, output: StudentOutput, read: list[Attention] | None
    ) -> Tensor:
        texts = max(1, self._at_once(current.device) // (time_steps * current[0].numel()))
        run = partial(self._part, time_steps, output.rates is not None, output.spike_counts is not None)
        keep = len(current) <= texts or not torch.is_grad_enabled()
        parts: list[_Part] = [
            run(*some) if keep else checkpoint(run, *some, use_reentrant=False)
            for some in zip(current.split(texts), mask.split(texts), strict=True)
        ]
        if output.rates is not None:
            output.rates |= _joined(part.rates for part in parts)
            output.hidden = tuple(map(torch.cat, zip(*(part.hidden for part in parts), strict=True)))
        if output.spike_counts is not None:
            output.spike_counts |= _joined(part.spike_counts for part in parts)
        return torch.cat([part.last for part in parts])

    def _at_once(self, device: torch.device) -> int:
        if device.type != "cuda":
            return AT_ONCE
        memory: int = torch.cuda.get_device_properties(device).total_memory
        return memory // (BYTES_A_LAYER * max(1, self.config.num_hidden_layers))

    def _part(self, time_steps: int, with_rates: bool, with_counts: bool, current: Tensor, mask: Tensor) -> _Part:
        rates: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        hidden: list[Tensor] = []

        def averaged(x: Tensor) -> Tensor:
            return x.unflatten(0, (time_steps, -1)).mean(0)

        emission = Unrolled(time_steps, rates if with_rates else None, counts if with_counts else None)
        sweep = self._sweep(current.repeat(time_steps, 1, 1), mask.repeat(time_steps, 1))
        last = sweep(emission, None, (lambda x: hidden.append(averaged(x))) if with_rates else ignore)
        return _Part(averaged(last), hidden, rates, counts)


def ignore(x: Tensor) -> None:
    """A HandOn that nobody listens to."""


def _joined(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of several, by layer."""
    of_parts = list(parts)
    return {name: torch.cat([part[name] for part in of_parts]) for name in of_parts[0]}
