"""Commands that prove what an artifact is, or make it again: verify, sign, rebuild, apply."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..extras import need
from .common import (
    Bars,
    base_option,
    config_option,
    folder_argument,
    json_option,
    main,
    print_result,
    quiet_libraries,
)


@main.command()
@folder_argument
@click.option("--base", "source", help="Where its base is: compare every tensor with the base itself too.")
@config_option("where the recipe says")
@click.option("--deep", is_flag=True, help="Run the encoders too, and compare their states with those at sealing.")
@click.option("--public-key", type=click.Path(path_type=Path), metavar="FILE", help="Of who must have signed it, PEM.")
@json_option
def verify(
    folder: Path, source: str | None, config: str | None, deep: bool, public_key: Path | None, as_json: bool
) -> None:
    """Compare every file of an artifact with its manifest, and every tensor with what its recipe tells of the base.

    The first that differs is named. Weights that are the base's own are refused: nothing was erased from them. A recipe
    can be forged along with the weights; --base trusts none of it but the names of the tensors that it changes. --deep
    asks the encoders, on torch and ONNX Runtime, a few prompts whose states were recorded. --public-key wants every file
    as it was signed by that key, and of the card what was generated.

    Example: unlearn-export verify out --base demo
    """
    if config and not source:
        raise UsageError("--base-config belongs to --base: give both")
    from ..artifact import Artifact

    artifact = Artifact.open(folder)
    if deep and artifact.has_onnx:
        need("--deep with an ONNX graph", "cpu", "onnxruntime")
    if public_key is not None:
        from ..signature import check_signature

        check_signature(artifact, public_key)
    count = artifact.verify()
    said = f"{folder}: {count} files are as they were sealed" + (f" and signed by {public_key}" if public_key else "")
    result: dict[str, Any] = {"path": str(folder), "files": count, "base": source, "signed": public_key is not None}
    if source:
        from ..stages import base_of

        quiet_libraries()
        base = base_of(artifact, source, config)
        artifact.verify_weights({name: seat.weights for name, seat in base.seats.items()})
        said += f", and the weights are an edit of {source}"
    if deep:
        from ..golden import check

        quiet_libraries()
        found = check(artifact)
        result["golden"] = [asdict(one) for one in found]
        said += "".join(f"\n{one.seat} on {one.backend}: states as recorded, {one.apart:.1e} apart" for one in found)
    print_result(result, as_json, lambda: said)


@main.command()
@folder_argument
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Private elliptic-curve key, PEM."
)
@json_option
def sign(folder: Path, key: Path, as_json: bool) -> None:
    """Sign an artifact: every file in model.sig, what was generated of its card in unlearning/card.sig.

    What people write above and below in the card is not covered. Signatures are OpenSSF model-signing's, and prove who
    stands behind the files and that they are unaltered; not that anything was forgotten.

    Example: unlearn-export sign out --key key.pem
    """
    from ..artifact import SIGNATURES, Artifact
    from ..signature import sign as write_signatures

    artifact = Artifact.open(folder)
    write_signatures(artifact, key)
    names = [str(artifact.path / name) for name in SIGNATURES]
    print_result({"path": str(folder), "signatures": names}, as_json, lambda: "\n".join(names))


@main.command()
@click.argument("delta", metavar="DELTA")
@base_option
@click.option("--revision", help="Commit, tag or branch of a DELTA on the Hub.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Artifact folder to make.")
@click.option("--overwrite", is_flag=True, help="Replace an existing folder, once the new one is complete.")
@json_option
def apply(
    delta: str,
    source: str | None,
    config: str | None,
    revision: str | None,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Rebuild the encoder of an artifact that holds only what changed, bit for bit, or refuse.

    DELTA is its folder or Hub id, as `push --delta-only` and `export --layout delta` make them. There is no ONNX graph in
    the result; `export` makes one.

    Example: unlearn-export apply owner/name --base ./wan -o out
    """
    from ..artifact import check_free

    check_free(out, overwrite=overwrite)
    quiet_libraries()
    from ..apply import apply as rebuilt

    done = rebuilt(delta, out, source, config, revision=revision, overwrite=overwrite)
    same = "the files are those that were sealed" if done.identical else "the tensors are those that were sealed"
    result = {"path": str(out), "identical": done.identical, "files": len(done.artifact.files())}
    print_result(result, as_json, lambda: f"{out}: {same}")


@main.command()
@folder_argument
@base_option
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the pictures that it was made from.")
@click.option("--device", default="cpu", help="Where to edit: cpu, cuda, cuda:1 …")
@click.option(
    "--tolerance",
    default=0.01,
    type=click.FloatRange(min=0),
    help="Exit with 3 where a tensor differs by more, relative to its edit; 0 wants the same bytes.",
)
@json_option
def rebuild(
    folder: Path,
    source: str | None,
    config: str | None,
    images: Path | None,
    device: str,
    tolerance: float,
    as_json: bool,
) -> None:
    """Do an artifact's edit again from its recipe, and tell whether it is the same: byte for byte, or about.

    Nothing is written. On one machine with the recipe's versions the bytes are the same; elsewhere rounding differs.

    Example: unlearn-export rebuild out
    """
    from ..artifact import Artifact

    artifact = Artifact.open(folder)
    artifact.verify()
    quiet_libraries()
    from ..rebuild import rebuild as again

    with Bars() as hooks:
        found = again(
            artifact, source, config, images=images, device=device, tolerance=tolerance, on_step=hooks.on_step
        )
    result = {"path": str(folder), "identical": found.identical, **asdict(found)}
    print_result(result, as_json, lambda: f"{folder}: {found}")
