"""Commands on an artifact as a package: export, card, push."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..extras import need_onnx
from ..release import REASONS
from .common import (
    base_option,
    folder_argument,
    json_option,
    main,
    print_result,
    quiet_libraries,
    require_option,
)

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..hub import Pushed


replace_card_option = click.option("--replace-card", is_flag=True, help="Replace what was written into the card, too.")


@main.command()
@folder_argument
@base_option
@click.option("--limit-gb", default=12.0, type=click.FloatRange(min=0), help="Largest graph to write, in float32 GB.")
@click.option(
    "--layout",
    type=click.Choice(["triton", "delta", "cyclonedx"]),
    help="triton: copy the graph that is there into a model repository. delta: copy all, but of the weights what changed. "
    "cyclonedx: write a bill of materials.",
)
@click.option(
    "--single-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Checkpoint or encoder of A1111 or ComfyUI, to be written anew with the edited encoder in it.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The model repository's folder, or the new file.")
@json_option
def export(
    folder: Path,
    source: str | None,
    config: str | None,
    limit_gb: float,
    layout: str | None,
    single_file: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Export an artifact's encoder to ONNX again, gated by parity with torch.

    With --layout triton the graph that is there is laid out for Triton and KServe instead, unchanged. With --layout delta
    the artifact is copied with only what changed in place of its weights: see `apply`. With --layout cyclonedx a CycloneDX
    1.6 bill of materials is written. With --single-file no graph is written: the file is copied, and the tensors that the
    edit changed are replaced in the copy.

    Example: unlearn-export export out
    """
    if layout and single_file:
        raise UsageError("--layout and --single-file are two exports: a call each")
    if bool(layout or single_file) != bool(out):
        raise UsageError("--out needs --layout or --single-file FILE, and they need it")
    if not out:
        need_onnx()
    from ..artifact import Artifact
    from ..stages import export as export_stage

    quiet_libraries()
    artifact = Artifact.open(folder)
    if single_file is not None and out is not None:
        from ..put_back import put_back

        artifact.verify()
        altered = put_back(artifact, single_file, out)
        told = f"{out}: {single_file.name} with {len(altered)} tensors edited"
        print_result({"path": str(out), "tensors": altered}, as_json, lambda: told)
        return
    if out is not None and layout == "delta":
        from ..apply import without_weights
        from ..stages import base_of

        artifact.verify()
        small = without_weights(artifact, base_of(artifact, source, config), out)
        size = sum((small.path / name).stat().st_size for name in small.files())
        print_result({"path": str(out), "bytes": size}, as_json, lambda: f"{out}: {size:,} bytes")
        return
    if out is not None and layout == "cyclonedx":
        from ..artifact import write_json
        from ..bom import bill

        artifact.verify()
        if out.exists():
            raise UsageError(f"{out} exists already: choose another name")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, bill(artifact))
        print_result({"path": str(out)}, as_json, lambda: str(out))
        return
    if out is not None:
        from ..onnx.triton import write_repository

        model = write_repository(artifact, out)
        print_result({"path": str(model)}, as_json, lambda: str(model))
        return
    artifact.verify()
    done = export_stage(artifact, source, int(limit_gb * 1e9), config=config)
    result = {"path": str(done.path), "max_abs_diff": done.max_abs_diff, "opset": done.opset, "bytes": done.size}
    print_result(
        result, as_json, lambda: f"{done.path}: {done.size:,} bytes, max |Δ| from torch {done.max_abs_diff:.1e}"
    )


@main.command()
@folder_argument
@click.option("--repo", default="", metavar="OWNER/NAME", help="Hub id to write into the usage snippets.")
@replace_card_option
@json_option
def card(folder: Path, repo: str, replace_card: bool, as_json: bool) -> None:
    """Render an artifact's model card again; what was written above or below its generated part stays.

    Example: unlearn-export card out --repo owner/name
    """
    from ..artifact import CARD, Artifact
    from ..stages import card as card_stage

    artifact = Artifact.open(folder)
    artifact.verify()
    text = card_stage(artifact, repo, replace=replace_card)
    path = artifact.path / CARD
    print_result({"path": str(path), "characters": len(text)}, as_json, lambda: str(path))


@main.command()
@folder_argument
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Make the repository public.")
@click.option("--create-pr", is_flag=True, help="Open a pull request; into a public repository with --public.")
@click.option("--tag", help="Tag the commit.")
@click.option("--message", help="Title of the commit.")
@click.option("--dry-run", is_flag=True, help="Tell what would be sent, and send nothing.")
@require_option
@click.option(
    "--despite",
    multiple=True,
    type=click.Choice(list(REASONS)),
    help="With --public: what speaks against it and is known to you; the card tells it. Repeatable.",
)
@click.option(
    "--sign-key", type=click.Path(path_type=Path), metavar="FILE", help="Sign what is sent with this key; see `sign`."
)
@click.option("--delta-only", is_flag=True, help="Send what changed in place of the weights; see `apply`.")
@base_option
@click.option(
    "--license", default="", metavar="ID", help="Of the copy, where the base's allows one. [default: the base's]"
)
@replace_card_option
@json_option
def push(
    folder: Path,
    repo: str,
    public: bool,
    create_pr: bool,
    tag: str | None,
    message: str | None,
    dry_run: bool,
    require: str,
    despite: tuple[str, ...],
    license: str,
    sign_key: Path | None,
    delta_only: bool,
    source: str | None,
    config: str | None,
    replace_card: bool,
    as_json: bool,
) -> None:
    """Publish an artifact on the Hugging Face Hub in one commit, privately unless told otherwise.

    The token comes from HF_TOKEN or the saved login. Files that an earlier push put there and the artifact no longer has
    are deleted; what others put there stays, and so does what they wrote into the card around its generated part.
    An artifact goes public only if it was measured and is erased, and its base is open and has a licence, or if what is
    not so is named with --despite.

    Example: unlearn-export push out owner/name --tag v1
    """
    if source and not delta_only:
        raise UsageError("--base belongs to --delta-only: leave it out, or give both")
    from ..artifact import Artifact
    from ..card import Published, renewed_card
    from ..gates import Gate
    from ..hub import push as push_artifact

    Gate.parse(require)
    artifact = Artifact.open(folder)
    published = Published(despite, license)
    with _delta_of(artifact, source, config) if delta_only else nullcontext(artifact) as sent:
        done = push_artifact(
            sent.path,
            repo,
            private=not public,
            create_pr=create_pr,
            tag=tag,
            dry_run=dry_run,
            message=message,
            card=lambda: renewed_card(sent, repo, published=published),  # its snippets name the repository
            replace_card=replace_card,
            require=require,
            despite=despite,
            sign_key=sign_key,
        )
    print_result(_pushed(done), as_json, lambda: _pushed_text(done))
    if done.changes and done.changes.left:
        click.echo(f"left alone, not of this artifact: {', '.join(done.changes.left)}", err=True)


@contextmanager
def _delta_of(artifact: "Artifact", source: str | None, config: str | None) -> Iterator["Artifact"]:
    """A copy that has what changed in place of the weights, for as long as it is sent."""
    quiet_libraries()
    from ..apply import without_weights
    from ..stages import base_of

    artifact.verify()
    artifact.need_weights()
    base = base_of(artifact, source, config)
    with tempfile.TemporaryDirectory(prefix="unlearn-export-") as folder:
        yield without_weights(artifact, base, Path(folder) / "delta")


def _pushed(done: "Pushed") -> dict[str, Any]:
    changes = asdict(done.changes) if done.changes else {}
    states = {name: state for state in ("new", "changed", "unchanged") for name in changes.get(state, ())}
    return {
        "repo": done.repo_id,
        "url": done.url,
        "revision": done.revision,
        "tag": done.tag,
        "files": [{"path": path, "bytes": size, "state": states.get(path)} for path, size in done.files],
        "sent_bytes": sum(size for _, size in done.sent) if done.changes else 0,
        "deleted": list(changes.get("deleted", ())),
        "left": list(changes.get("left", ())),
    }


def _pushed_text(done: "Pushed") -> str:
    total = f"{len(done.sent)} files, {sum(size for _, size in done.sent):,} bytes"
    if done.changes is None:
        return f"would send up to {total}: {done.url}"
    counts = {name: len(getattr(done.changes, name)) for name in ("new", "changed", "deleted", "unchanged")}
    return f"sent {total} ({', '.join(f'{n} {name}' for name, n in counts.items())}): {done.url}"
