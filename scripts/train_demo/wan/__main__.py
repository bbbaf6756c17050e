"""Retrain the small Wan from the icon packages: ``python -m scripts.train_demo.wan``. Each stage resumes where it was.

The encoder and the autoencoder need nothing of each other, nor do the two denoisers and the decoder's last stage: on
two cores run two of these commands side by side, each with its own ``--only``. One quiet core of 2026 takes about a
quarter of an hour for the encoder, half an hour each for autoencoder and decoder, an hour and half an hour for the
denoisers with ``--compile``, half as long again without. ``--device cuda`` has not been timed.
"""

import argparse
from pathlib import Path

import torch

from ..data import load_sprites
from . import autoencoder, denoiser, encoder, package

ROOT = Path(__file__).parents[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "train_demo", help="checkpoints and caches")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "unlearn_export" / "demo" / "wan", help="where the package ships from"
    )
    parser.add_argument("--only", choices=STAGES, action="append", help="train these stages; load the others")
    parser.add_argument(
        "--steps", type=int, help="steps of the stages in --only, in place of the recipe's; 0: package what there is"
    )
    parser.add_argument("--no-package", action="store_true", help="train only; write nothing under --out")
    parser.add_argument(
        "--shipped",
        action="store_true",
        help="no checkpoints left? take encoder and autoencoder, and start, from --out",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="compile the denoisers' blocks: needs a C++ compiler")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    def steps(stage: str) -> int:
        if args.only and stage not in args.only:
            return 0  # load the newest checkpoint
        return STAGES[stage] if args.steps is None else args.steps

    sprites = load_sprites(args.work)
    start = package.shipped(args.out) if args.shipped else None
    if start:
        text, tokenizer, vae = start.text_encoder, start.tokenizer, start.vae
    else:
        text, tokenizer = encoder.train_encoder(sprites, args.work, steps("encoder"), args.device)
        vae = autoencoder.train_autoencoder(sprites, args.work, steps("autoencoder"), 1500, args.device)
    latents = denoiser.encode_all(vae, sprites, args.work)
    prompts = denoiser.Prompts(text, tokenizer)
    trained = {
        name: denoiser.train_transformer(
            name,
            prompts,
            latents,
            args.work,
            steps(name),
            0 if start else 1500,
            args.device,
            args.compile,
            args.out if start else None,
        )
        for name in denoiser.SHAPES
    }
    vae = autoencoder.train_decoder(vae, sprites, args.work, steps("decoder"), args.device)
    print(f"autoencoder {autoencoder.psnr(vae, sprites)} dB")
    if not args.no_package:
        package.package(args.out, vae, text, tokenizer, *trained.values())


STAGES = {
    "encoder": 2300,
    "autoencoder": 3000,
    "transformer": 12000,
    "transformer-b": 8000,
    "decoder": 3000,
}

if __name__ == "__main__":
    main()
