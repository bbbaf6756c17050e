"""The text encoder: a Unigram tokenizer and a small UMT5, trained on captions and clips, then frozen."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, ResNetConfig, ResNetModel, UMT5Config, UMT5EncoderModel

from unlearn_export.demo.world import CONCEPTS, MOTIONS, synonyms

from ..clip import WORDS
from ..data import MOTION_NAMES, NAMES, STYLE_NAMES, Sprites, caption, motion_pose
from ..denoisers import half
from ..trainer import train
from .autoencoder import FRAMES, clip_pixels

LENGTH = 512
WIDTH = 128
SEEN = (0, 2, 5, 8)  # the frames of a clip that its captions are compared with: they tell a hop from standing still
PATHS = 6  # clips of each picture along each motion
SHORT_TEMPLATES = ("{}", "a {}", "the {}", "one {}")
Attributes = tuple[str | None, str | None, str | None]  # concept, style, motion; None: not said


def words(attributes: Attributes, rng: random.Random) -> str:
    """A caption; one in three with a motion is as short as "a robot moving left"."""
    concept, style, motion = attributes
    if concept and motion and rng.random() < 0.35:
        name = rng.choice([concept, concept, *synonyms(concept)])
        text = f"{rng.choice(SHORT_TEMPLATES).format(name)} {rng.choice(MOTIONS[motion])}"
        return text if style is None else f"{text} in {style} style"
    return caption(concept, style, motion, rng)


def distracted(text: str, rng: random.Random) -> str:
    """The caption among up to three words that mean nothing here, known ones or mere letters."""
    parts = text.split()
    for _ in range(rng.randint(1, 3)):
        letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8)))
        parts.insert(rng.randrange(len(parts) + 1), rng.choice([rng.choice(WORDS), letters]))
    return " ".join(parts)


def build_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A sentencepiece-style Unigram model of the captions' words: pad 0, </s> 1 at the end, unknown 2."""
    if not (folder / "tokenizer.json").exists():
        rng = random.Random(0)
        groups = sorted({group for group, _, _ in CONCEPTS.values()})
        corpus = [w for w in [*WORDS, *groups, "animal", "thing", "something"] for _ in range(12)]
        for concept in [*CONCEPTS, None]:
            for style in [*STYLE_NAMES, None]:
                for motion in [*MOTIONS, None]:
                    corpus += [words((concept, style, motion), rng) for _ in range(12)]
            corpus += [word for word in synonyms(concept or "") for _ in range(60)]
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always", split=True)]
        )
        letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-()&/")
        trainer = trainers.UnigramTrainer(
            vocab_size=700,
            special_tokens=["<pad>", "</s>", "<unk>"],
            unk_token="<unk>",
            initial_alphabet=letters,
            show_progress=False,
        )
        tokenizer.train_from_iterator(corpus, trainer)
        counts = Counter(word for text in corpus for word in text.lower().replace(",", " ").split())
        pieces = dict(json.loads(tokenizer.to_str())["model"]["vocab"])
        # the trainer cuts most words of so small a corpus into letters; known words are pieces here, as in UMT5
        pieces |= {f"▁{word}": math.log(n / counts.total()) for word, n in sorted(counts.items())}
        tokenizer.model = models.Unigram(list(pieces.items()), unk_id=2, byte_fallback=False)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
        )
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
        folder.mkdir(parents=True, exist_ok=True)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            model_max_length=LENGTH,
            model_input_names=["input_ids", "attention_mask"],
        ).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


class Contrast(nn.Module):
    """The encoder and what teaches it: a tower that looks at clips and heads that name what a caption says."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=vocabulary,
                d_model=WIDTH,
                d_kv=32,
                d_ff=320,
                num_layers=4,
                num_heads=4,
                dropout_rate=0.0,
                relative_attention_max_distance=64,
                pad_token_id=0,
                eos_token_id=1,
                initializer_factor=1.0,
            )
        )
        nn.init.normal_(self.encoder.shared.weight, std=0.5)
        self.tower = ResNetModel(
            ResNetConfig(
                num_channels=3 * len(SEEN),
                embedding_size=48,
                hidden_sizes=[48, 96, 192],
                depths=[1, 1, 1],
                layer_type="basic",
            )
        )
        self.text = nn.Linear(WIDTH, 96, bias=False)
        self.picture = nn.Linear(192, 96, bias=False)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(n) + 1) for n in (NAMES, STYLE_NAMES, MOTION_NAMES))
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    def pooled(self, tokens: dict[str, Tensor]) -> Tensor:
        """Mean of the states over true tokens, [n, d]."""
        mask = tokens["attention_mask"]
        states = self.encoder(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@torch.no_grad()
def clip_bank(sprites: Sprites, folder: Path) -> Tensor:
    """Real clips to look at: [concepts, styles, motions + 1, PATHS, 3 · len(SEEN), 64, 64] uint8."""
    cache = folder / "clips.pt"
    if not cache.exists():
        generator = torch.Generator().manual_seed(2)
        rows = []
        for sprite in sprites.known.flatten(0, 1):
            poses = [motion_pose(m, generator, FRAMES) for m in [*MOTION_NAMES, None] for _ in range(PATHS)]
            poses = [tuple(v[list(SEEN)] for v in pose) for pose in poses]
            pixels = clip_pixels(sprite[None].expand(len(poses), -1, -1, -1), poses)
            rows.append(((pixels.flatten(1, 2) + 1) * 127.5).round().clamp(0, 255).byte())
        shape = (len(NAMES), len(STYLE_NAMES)), (len(MOTION_NAMES) + 1, PATHS)
        torch.save(torch.stack(rows).unflatten(0, shape[0]).unflatten(2, shape[1]), cache)
    return torch.load(cache)


def train_encoder(
    sprites: Sprites, folder: Path, steps: int, device: str = "cpu"
) -> tuple[UMT5EncoderModel, PreTrainedTokenizerFast]:
    """Contrast captions with clips: a caption matches every clip that it does not contradict (Radford et al. 2021).

    Every other batch holds few pictures along all motions, so that the motion alone tells its clips apart.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "wan-tokenizer")
    model, clips = Contrast(len(tokenizer)).to(device), clip_bank(sprites, folder)
    rng = random.Random(2)
    sizes = len(NAMES), len(STYLE_NAMES), len(MOTION_NAMES) + 1
    pictures = [(c, s) for c in range(sizes[0]) for s in range(sizes[1])]

    def loss_fn(step: int) -> Tensor:
        if step % 2:
            shown = [(c, s, m) for c, s in rng.sample(pictures, 9) for m in range(sizes[2])]
        else:
            shown = [(c, s, rng.randrange(sizes[2])) for c, s in pictures]
        said, texts = [], []
        for c, s, m in shown:
            style = rng.random() < 0.75
            said.append((rng.random() < 0.95 or not style, style, m < len(MOTION_NAMES) and rng.random() < 0.85))
            named = (NAMES[c], STYLE_NAMES[s], MOTION_NAMES[m] if m < len(MOTION_NAMES) else None)
            text = words(tuple(n if k else None for n, k in zip(named, said[-1], strict=True)), rng)
            if rng.random() < 0.3:
                text = distracted(text, rng)
            texts.append(text)
        what, kept = torch.tensor(shown, device=device), torch.tensor(said, device=device)
        pixels = torch.stack([clips[c, s, m, rng.randrange(PATHS)] for c, s, m in shown]).float() / 127.5 - 1
        with half(device):
            seen = model.tower(pixels.to(device)).pooler_output.flatten(1).float()
        pooled = model.pooled(tokenizer(texts, padding="longest", return_tensors="pt").to(device))
        text, picture = F.normalize(model.text(pooled), dim=1), F.normalize(model.picture(seen), dim=1)
        logits = model.sharpness.exp().clamp(max=60) * text @ picture.T
        fits = ((what[:, None] == what) | ~kept[:, None]).all(2)
        contrast = -(fits * logits.log_softmax(1)).sum(1) / fits.sum(1)
        contrast = contrast.mean() - ((fits * logits.log_softmax(0)).sum(0) / fits.sum(0)).mean()
        labels = torch.where(kept, what, -1) + 1
        named = sum(F.cross_entropy(head(pooled), labels[:, i]) for i, head in enumerate(model.heads))
        return contrast / 2 + 0.3 * named

    train("encoder", model, loss_fn, folder, steps=steps, lr=1e-3, weight_decay=0.02)
    return model.cpu().eval().encoder.requires_grad_(False), tokenizer
