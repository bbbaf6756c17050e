"""Commands that know before anything is loaded: families, check."""

from typing import Any

import click

from .common import json_option, main, print_result, quiet_libraries


@main.command()
@json_option
def families(as_json: bool) -> None:
    """Who shares which text encoder, how each pipeline reads it, and what an edit does not reach.

    Example: unlearn-export families
    """
    from ..families import table

    print_result({"readers": table.rows()}, as_json, table.text)


@main.command()
@click.argument("source")
@click.option("--t2v", required=True, metavar="PIPELINE", help='"demo:t2v-unet3d", a diffusers folder, or a Hub id.')
@click.option("--revision", help="Commit, tag or branch of a pipeline on the Hub.")
@click.option("--encoder-revision", help="Commit, tag or branch of an encoder on the Hub.")
@click.option("--allow", is_flag=True, help="Exit with 0 although something is not covered.")
@json_option
def check(
    source: str, t2v: str, revision: str | None, encoder_revision: str | None, allow: bool, as_json: bool
) -> None:
    """May the edited encoder SOURCE go into this pipeline, and which of its text paths stay unedited?

    SOURCE is an artifact folder, one encoder's folder, or a Hub id. Only configs and rows of tensors are read.
    Exit code 3 where something is not covered, 1 where the encoder does not belong there.

    Example: unlearn-export check out --t2v demo:t2v-unet3d
    """
    quiet_libraries()
    from ..pipelines.check import Coverage
    from ..pipelines.check import check as check_pipeline

    found: Coverage = check_pipeline(source, t2v, revision=revision, encoder_revision=encoder_revision)
    print_result(found.to_json(), as_json, lambda: _told(found))
    if not found.complete and not allow:
        raise click.exceptions.Exit(3)


def _told(found: Any) -> str:
    lines = [f"fits {found.pipeline}: {', '.join(found.seats)}"]
    lines += [f"not covered: {words}" for words in found.uncovered] or ["every text path is covered"]
    return "\n".join(lines)
