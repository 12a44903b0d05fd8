"""Operations as whole numbers: arithmetic and memory accesses of a node, a network or a side of a comparison."""

import dataclasses
import operator
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Operations:
    """Counts of arithmetic and of memory accesses.

    accumulates: a spike adding one weight (or, in attention, one graded value) to one target; in a graded dataflow a
    message doing so. payload_products: products of a message's payload and a weight, where it carries one.
    updates: neuron updates, one per neuron and step: integrate and compare. resets: one per spike. leaks: one
    multiplication per update of a leaky neuron.
    lookups: values read from embedding tables. roots: square roots. addresses: address computations.
    Reads and writes are of one value each: weights; values (activations, messages); states (potentials, sums).
    """

    macs: int = 0
    accumulates: int = 0
    payload_products: int = 0
    adds: int = 0
    multiplies: int = 0
    compares: int = 0
    exponentials: int = 0
    error_functions: int = 0
    divisions: int = 0
    roots: int = 0
    updates: int = 0
    leaks: int = 0
    resets: int = 0
    lookups: int = 0
    weight_reads: int = 0
    value_reads: int = 0
    value_writes: int = 0
    state_reads: int = 0
    state_writes: int = 0
    addresses: int = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(*map(operator.add, vars(self).values(), vars(other).values()))

    def times(self, factor: int) -> "Operations":
        return Operations(**{name: getattr(self, name) * factor for name in OPERATIONS})

    @property
    def arithmetic(self) -> int:
        """Operations that are neither synaptic, nor neuron updates, nor memory accesses."""
        return sum(getattr(self, name) for name in _OTHER_ARITHMETIC)


OPERATIONS = tuple(f.name for f in dataclasses.fields(Operations))
_OTHER_ARITHMETIC = (
    "macs", "adds", "multiplies", "compares", "exponentials", "error_functions", "divisions", "roots",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """always: what is done whatever the activity; driven: what is done for each spike or message, in proportion."""

    always: Operations = Operations()
    driven: Operations = Operations()

    @cached_property
    def total(self) -> Operations:
        return self.always + self.driven
