"""The demo's judge: a classifier of concept and style and a contrastive image tower, trained on real pictures only."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection, ResNetForImageClassification

from ..base import Base
from ..concept import Concept
from ..evaluation.scorer import Scores
from ..scorers.named import check_rest
from . import ROOT
from .world import CONCEPTS, STYLES


class DemoScorer:
    """Scores pictures of the demo bases. It never saw a generated one, and no eraser sees it."""

    name = "demo"
    concepts = tuple(CONCEPTS)
    styles = tuple(STYLES)

    def __init__(self) -> None:
        self.classifier = ResNetForImageClassification.from_pretrained(
            ROOT / "scorer" / "classifier", dtype=torch.float32
        ).eval()
        self.image_tower = CLIPVisionModelWithProjection.from_pretrained(
            ROOT / "scorer" / "image_tower", dtype=torch.float32
        ).eval()
        self.text_tower = CLIPTextModel.from_pretrained(ROOT / "text_encoder", dtype=torch.float32).eval()
        self.text_projection = load_file(ROOT / "scorer" / "text_projection.safetensors")["weight"].float()
        self.tokenizer = CLIPTokenizer.from_pretrained(ROOT / "tokenizer")

    @torch.no_grad()
    def score(self, pixels: Tensor) -> Scores:
        """pixels: [n, 3, 64, 64] in [0, 1]."""
        logits = torch.cat([self.classifier(pixel_values=part * 2 - 1).logits for part in pixels.split(128)])
        chance = logits.softmax(1)
        joint = chance[:, :-1].unflatten(1, (len(self.concepts), len(self.styles)))
        return Scores(joint.sum(2), joint.sum(1), chance[:, -1])

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """The image tower's embedding [n, d] of pixels [n, 3, 64, 64] in [0, 1]."""
        return torch.cat([self.image_tower(pixel_values=part * 2 - 1).image_embeds for part in pixels.split(128)])

    @torch.no_grad()
    def feature_maps(self, pixels: Tensor) -> list[Tensor]:
        """The classifier's stages, shallow to deep, each [n, c, h, w]."""
        return list(self.classifier(pixel_values=pixels * 2 - 1, output_hidden_states=True).hidden_states[1:])

    @torch.no_grad()
    def text_image(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """Cosine of each picture [n, 3, 64, 64] in [0, 1] with its own prompt. → [n]"""
        tokens = self.tokenizer(prompts, padding=True, truncation=True, return_tensors="pt").input_ids
        text = self.text_tower(tokens).pooler_output @ self.text_projection.T
        return F.cosine_similarity(text, self.features(pixels))


def scorer(rest: str, base: Base, concepts: Sequence[Concept]) -> DemoScorer:
    """``demo``: this judge, whatever the base. Raises UsageError for "demo:" and anything more."""
    check_rest("demo", rest, wanted=False)
    return DemoScorer()
