"""BERT's encoder layer, with the places where SpikingBERT puts neurons; without them it is dense."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from neurotool.graph import Add, Gelu, GraphBuilder, MatMul, Scale, Softmax
from neurotool.student.building import linear_node, neuron_node, norm_node
from neurotool.student.configuration import StudentConfig

PLACES = ("key", "value", "attention", "self_output", "intermediate", "output")

Send = Callable[[str, Tensor], Tensor]
"""(place, current) -> what the layer reads from there on, both (batch, tokens, width)."""


class Attention(NamedTuple):
    """What the attention of a layer reads, each (batch, heads, tokens, head width)."""

    query: Tensor
    key: Tensor
    value: Tensor

    @property
    def scores(self) -> Tensor:
        """Before the softmax, (batch, heads, tokens, tokens)."""
        return self.query @ self.key.transpose(-1, -2) / self.query.shape[-1] ** 0.5


class EncoderLayer(nn.Module):
    """gelu: whether the feed-forward part has its GELU; without it the neurons behind cut negative values off."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.gelu = getattr(config, "activation", "gelu") == "gelu"
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.self_output = nn.Linear(hidden, hidden)
        self.self_output_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(hidden, intermediate)
        self.output = nn.Linear(intermediate, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def run(self, s: Tensor, mask: Tensor, send: Send, read: list[Attention] | None = None) -> Tensor:
        """s: (batch, tokens, hidden); mask: (batch, 1, 1, tokens), True where a token may be attended to. Appends to
        `read` when given."""
        key = send("key", self.key(s))
        value = send("value", self.value(s))
        query, key, value = (self._split(x) for x in (self.query(s), key, value))
        if read is not None:
            read.append(Attention(query, key, value))
        context = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.attention_dropout if self.training else 0.0
        )
        attention = send("attention", context.transpose(1, 2).reshape(s.shape))
        s = send("self_output", self.self_output_norm(self.dropout(self.self_output(attention)) + s))
        wide = self.intermediate(s)
        wide = send("intermediate", F.gelu(wide) if self.gelu else wide)
        return send("output", self.output_norm(self.dropout(self.output(wide)) + s))

    def add_to(self, build: GraphBuilder, name: str, s: str) -> str:
        """The layer as nodes that read node `s`; returns the last."""

        def linear(part: str, source: str) -> str:
            return build.add(f"{name}.{part}.linear", linear_node(getattr(self, part)), source)

        def neurons(part: str, source: str) -> str:
            layer = getattr(self, f"{part}_neurons", None)  # a dense network has none
            return source if layer is None else build.add(f"{name}.{part}", neuron_node(layer), source)

        def residual_norm(part: str, source: str, residual: str) -> str:
            added = build.add(f"{name}.{part}.add", Add(), linear(part, source), residual)
            return build.add(f"{name}.{part}.norm", norm_node(getattr(self, f"{part}_norm")), added)

        heads = self.num_heads
        key = neurons("key", linear("key", s))
        scores = build.add(f"{name}.scores", MatMul(heads, transpose_b=True), linear("query", s), key)
        scaled = build.add(f"{name}.scores.scale", Scale((self.query.out_features // heads) ** -0.5), scores)
        probabilities = build.add(f"{name}.softmax", Softmax(), scaled)
        value = neurons("value", linear("value", s))
        context = build.add(f"{name}.context", MatMul(heads), probabilities, value)
        attention = neurons("attention", context)
        s = neurons("self_output", residual_norm("self_output", attention, s))
        wide = linear("intermediate", s)
        wide = neurons("intermediate", build.add(f"{name}.intermediate.gelu", Gelu(), wide) if self.gelu else wide)
        return neurons("output", residual_norm("output", wide, s))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
