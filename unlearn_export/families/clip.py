"""CLIP's text towers: ViT-L/14 (Stable Diffusion 1), OpenCLIP ViT-H (2) and bigG (SDXL), with projection or without."""

import json
from pathlib import Path

from transformers import CLIPTextModel

from .family import EncoderFamily


class Clip(EncoderFamily):
    """Causal and read without a mask: padding is end-of-text, and its states carry the prompt too.

    transformers 4 stores the tensors under ``text_model.``, transformers 5 without it; a file with the other names
    loads as random weights in one of them, so a base's own names are kept.
    """

    name = "clip"
    architectures = ("CLIPTextModel", "CLIPTextModelWithProjection")
    text_class = CLIPTextModel
    causal = True
    prefixes = ("text_model.", "")
    stack = "encoder.layers"
    embedding = "embeddings.token_embedding.weight"
    projection = "text_projection.weight"
    down = "mlp.fc2"

    @classmethod
    def complete_tokenizer(cls, folder: Path) -> None:
        """Write vocab.json and merges.txt from tokenizer.json where they lack: older readers know no other files."""
        if (folder / "vocab.json").is_file() or not (folder / "tokenizer.json").is_file():
            return
        model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        if "merges" not in model:  # no byte pairs: older readers have no way to read it
            return
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *merges]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
