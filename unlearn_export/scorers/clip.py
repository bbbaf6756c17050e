"""A CLIP model as a zero-shot judge."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from ..base import HUB_ID
from ..errors import BaseError
from ..evaluation.scorer import Scores
from ..phrasing import NAMED, NAMED_NOTHING, NAMED_STYLE, with_article

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's CLIP
HUB_FILES = ["*.json", "merges.txt", "*.safetensors"]


class ClipScorer:
    """Scores pictures by the likeness of their CLIP embedding to those of prompts that name each thing.

    Zero-shot classification (Radford et al. 2021, arXiv:2103.00020): softmax of cosine times the model's own scale, for
    concepts over their names and a few prompts of nothing, for styles over theirs.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: Any,
        concepts: Sequence[str],
        styles: Sequence[str],
        *,
        name: str = "clip",
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        self.name, self.concepts, self.styles = name, tuple(concepts), tuple(styles)
        self.device = next(model.parameters()).device
        self.mean = torch.tensor(mean, device=self.device)[:, None, None]
        self.std = torch.tensor(std, device=self.device)[:, None, None]
        self._known: dict[str, Tensor] = {}  # prompt → its embedding

    @classmethod
    def load(
        cls, source: str, concepts: Sequence[str], styles: Sequence[str], device: torch.device | str = "cpu"
    ) -> "ClipScorer":
        """Read a ``CLIPModel`` folder or Hub id, in float32. Raises BaseError where it is none or incomplete."""
        folder, name = _folder(source)
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
            if kind != "clip":
                raise BaseError(f"{source} is a {kind} model: a scorer needs a whole CLIP, text and vision")
            model, info = CLIPModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
            shown = folder / "preprocessor_config.json"
            prepared = json.loads(shown.read_text(encoding="utf-8")) if shown.is_file() else {}
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise BaseError(f"cannot load the CLIP model {source}: {str(error).splitlines()[0]}") from error
        if info["missing_keys"]:
            raise BaseError(f"cannot load the CLIP model {source}: it has no {sorted(info['missing_keys'])[0]}")
        prepared = {key: prepared[key] for key in ("image_mean", "image_std") if key in prepared}
        return cls(
            model.to(device),
            tokenizer,
            concepts,
            styles,
            name=f"clip:{name}",
            mean=prepared.get("image_mean", MEAN),
            std=prepared.get("image_std", STD),
        )

    @torch.no_grad()
    def score(self, pixels: Tensor) -> Scores:
        """pixels: [n, 3, h, w] in [0, 1], of any size."""
        image = F.normalize(self.features(pixels), dim=1)
        named = [self._mean([t.format(with_article(c)) for t in NAMED]) for c in self.concepts]
        nothing = [self._mean([prompt]) for prompt in NAMED_NOTHING]
        concept = self._chances(image, [*named, *nothing])
        style = self._chances(image, [self._mean([t.format(s) for t in NAMED_STYLE]) for s in self.styles])
        n = len(self.concepts)
        return Scores(concept[:, :n], style, concept[:, n:].sum(1))

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """The projected image embedding [n, d] of pixels [n, 3, h, w] in [0, 1]."""
        parts = [_pooled(self.model.get_image_features(pixel_values=x)) for x in self._prepared(pixels)]
        return torch.cat(parts).cpu()

    @torch.no_grad()
    def feature_maps(self, pixels: Tensor) -> list[Tensor]:
        """The patches' states of four layers of the image tower, shallow to deep, each [n, c, h, w]."""
        stages: list[list[Tensor]] = []
        for x in self._prepared(pixels):
            states = self.model.vision_model(pixel_values=x, output_hidden_states=True).hidden_states[1:]
            chosen = [states[max(0, round(len(states) * (i + 1) / 4) - 1)] for i in range(4)]
            side = round((chosen[0].shape[1] - 1) ** 0.5)
            stages.append([s[:, 1:].transpose(1, 2).unflatten(2, (side, side)).cpu() for s in chosen])
        return [torch.cat(parts) for parts in zip(*stages, strict=True)]

    @torch.no_grad()
    def text_image(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """Cosine of each picture [n, 3, h, w] in [0, 1] with its own prompt. → [n]"""
        return F.cosine_similarity(self._text(prompts), self.features(pixels))

    def _prepared(self, pixels: Tensor) -> list[Tensor]:
        """Batches as the image tower takes them: resized by the shorter side, cut square, normalised."""
        side = self.model.config.vision_config.image_size
        batches = []
        for part in pixels.to(self.device).float().split(64):
            height, width = part.shape[2:]
            factor = side / min(height, width)
            if factor != 1:
                size = (max(side, round(height * factor)), max(side, round(width * factor)))
                part = F.interpolate(part, size=size, mode="bicubic", antialias=True).clamp(0, 1)
            top, left = (part.shape[2] - side) // 2, (part.shape[3] - side) // 2
            batches.append((part[:, :, top : top + side, left : left + side] - self.mean) / self.std)
        return batches

    def _text(self, prompts: Sequence[str]) -> Tensor:
        """The projected embeddings [n, d]; each prompt is encoded once."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        for start in range(0, len(new), 64):
            part = new[start : start + 64]
            length = self.model.config.text_config.max_position_embeddings
            tokens = self.tokenizer(part, padding=True, truncation=True, max_length=length, return_tensors="pt")
            encoded = self.model.get_text_features(
                input_ids=tokens.input_ids.to(self.device), attention_mask=tokens.attention_mask.to(self.device)
            )
            self._known.update(zip(part, _pooled(encoded).cpu(), strict=True))
        return torch.stack([self._known[p] for p in prompts])

    def _mean(self, prompts: list[str]) -> Tensor:
        return F.normalize(F.normalize(self._text(prompts), dim=1).mean(0), dim=0)

    def _chances(self, image: Tensor, classes: list[Tensor]) -> Tensor:
        if not classes:
            return torch.zeros(len(image), 0)
        return (self.model.logit_scale.exp().cpu() * image @ torch.stack(classes).T).softmax(1)


def _pooled(out: Any) -> Tensor:
    """What transformers 4 gives as a tensor and 5 as an output object."""
    return out if isinstance(out, Tensor) else out.pooler_output


def _folder(source: str) -> tuple[Path, str]:
    """→ the model's folder here, and the name to call it by."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BaseError(f"{source} is no CLIP model: it has no config.json")
        return folder, folder.resolve().name
    repo, _, revision = source.partition("@")
    if not HUB_ID.fullmatch(repo):
        raise BaseError(f"no CLIP model {source!r}: give a folder, or a Hub id such as owner/name")
    from ..net.download import fetched

    return fetched(repo, revision or None, HUB_FILES, fails_as=BaseError), source
