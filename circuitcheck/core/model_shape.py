"""How large the parts of a model are: what a cost can be told from without its weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerShape:
    """One layer.

    Attributes:
        heads: query heads.
        d_head: width of one head's value.
        attention_in: weights between the residual stream and the heads' values: queries, keys and values.
        attention_out: weights of the output projection.
        mlp: weights of the MLP that one token passes; of experts, those that are chosen.
        stored: all of the layer's weights.
    """

    heads: int
    d_head: int
    attention_in: int
    attention_out: int
    mlp: int
    stored: int

    @property
    def d_attention(self) -> int:
        """Numbers of one position that the output projection reads."""
        return self.heads * self.d_head

    @property
    def used(self) -> int:
        """Weights that one token passes."""
        return self.attention_in + self.attention_out + self.mlp


@dataclass(frozen=True)
class ModelShape:
    """A model.

    Attributes:
        name: how it is called.
        layers: in order of execution.
        d_model: width of the residual stream.
        vocabulary: rows of the unembedding.
        stored: all weights, numbers.
        is_parallel: whether attention and MLP of a layer run side by side, so that neither sees the other.
    """

    name: str
    layers: tuple[LayerShape, ...]
    d_model: int
    vocabulary: int
    stored: int
    is_parallel: bool

    @property
    def heads(self) -> int:
        """Query heads of all layers."""
        return sum(layer.heads for layer in self.layers)

    @property
    def used(self) -> int:
        """Weights of the layers that one token passes."""
        return sum(layer.used for layer in self.layers)
