"""T5 v1.1 and UMT5 encoders: bidirectional, relative positions, no biases, a norm above the last layer."""

from collections.abc import Mapping
from typing import ClassVar

from transformers import T5EncoderModel, UMT5EncoderModel

from .family import EncoderFamily


class T5(EncoderFamily):
    """T5 (Raffel et al. 2020, arXiv:1910.10683). One set of weights serves pipelines that mask the padding and
    pipelines that let it attend; the relative positions of all layers lie in the first one.
    """

    name = "t5"
    architectures = ("T5EncoderModel",)
    text_class = T5EncoderModel
    causal = False
    placed = False
    stack = "encoder.block"
    parts: ClassVar[Mapping[str, str]] = {"mlp": ".DenseReluDense.", "attention": ".SelfAttention."}
    embedding = "shared.weight"
    tied: ClassVar[tuple[str, ...]] = ("encoder.embed_tokens.weight",)
    depth_field = "num_layers"
    down = "DenseReluDense.wo"


class UMT5(T5):
    """UMT5 (Chung et al. 2023, arXiv:2304.09151): T5 with relative positions in every layer and 107 languages."""

    name = "umt5"
    architectures = ("UMT5EncoderModel",)
    text_class = UMT5EncoderModel
