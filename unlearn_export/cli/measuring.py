"""Commands that measure: identify, evaluate, probe, compare."""

from pathlib import Path
from typing import Any

import click

from ..concept import KINDS, Concept, check_concepts
from ..errors import UsageError
from ..extras import need_scorer
from ..profile import profile_of
from .common import (
    SEED,
    Bars,
    base_option,
    check_revision,
    config_option,
    evaluation_table,
    folder_argument,
    json_option,
    main,
    print_result,
    quiet_libraries,
    require_option,
    size_options,
    warn_unless_erased,
)


@main.command()
@click.argument("concept", metavar="CONCEPT")
@click.option(
    "--base", "source", required=True, help='"demo", a diffusers or encoder folder, a Hub id, or a .safetensors file.'
)
@config_option("what diffusers takes")
@click.option("--revision", help="Commit, tag or branch of a Hub id.")
@click.option("--kind", type=click.Choice(KINDS), default="object", help="Chooses the prompt templates.")
@click.option("--alias", "aliases", multiple=True, help="Another word to try, such as another language's; repeatable.")
@click.option("--images", default=24, type=click.IntRange(min=1), help="Pictures of it; a third of that of each word.")
@click.option("--steps", default=12, type=click.IntRange(min=1), help="Denoising steps of every picture.")
@click.option("--guidance", type=float, help="Guidance scale. [default: the base's own]")
@click.option("--seed", default=2000, type=SEED, help="Of the noise.")
@click.option("--scorer", help="Who looks: see docs/identify.md. [default: the base's own, else nobody]")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder for plan.json, identify.json, identify.png.")
@click.option("--device", default="cpu", help="Where to draw: cpu, cuda, cuda:1 …")
@json_option
def identify(
    concept: str,
    source: str,
    config: str | None,
    revision: str | None,
    kind: Any,
    aliases: tuple[str, ...],
    images: int,
    steps: int,
    guidance: float | None,
    seed: int,
    scorer: str | None,
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Tell whether and by which words a base draws a concept, what stands close to it, and how to erase it.

    Example: unlearn-export identify pizza --base demo -o known
    """
    wanted = Concept(concept, kind, aliases)
    check_concepts([wanted], profile_of(source).vocabulary)
    check_revision(source, revision, config)
    quiet_libraries()
    from ..base import load_base
    from ..identify import identify as look
    from ..identify import table
    from ..scorers import load_scorer

    base = load_base(source, revision, device, config=config)
    if scorer and not base.draws:
        raise UsageError(
            f"{source} is an encoder alone and draws nothing to judge: leave --scorer out, "
            "or give the pipeline's folder as --base"
        )
    scorer = scorer or base.scorer
    judge = load_scorer(scorer, base, [wanted]) if scorer else None
    bars = Bars()
    with bars:
        found = look(
            base,
            wanted,
            judge,
            images=images,
            seed=seed,
            steps=steps,
            guidance=guidance,
            on_batch=lambda done, total: bars.show("identify", done, total),
        )
    if out:
        found.write(out)
    print_result(found.report, as_json, lambda: table(found.report) + (f"\n\nwritten to {out}" if out else ""))


@main.command()
@folder_argument
@base_option
@size_options
@click.option("--seed", default=1000, type=SEED, help="Of the noise; before and after share it.")
@click.option("--references", type=click.Path(path_type=Path), help="Folder of protected pictures: copyright metric.")
@click.option("--features", metavar="MODULE:FACTORY", help="Whose vectors KID compares. [default: the scorer's own]")
@require_option
@json_option
def evaluate(
    folder: Path,
    source: str | None,
    config: str | None,
    t2v: tuple[str, ...],
    scorer: str | None,
    seed: int,
    references: Path | None,
    features: str | None,
    require: str,
    as_json: bool,
    **size: Any,
) -> None:
    """Measure an artifact again, before and after, and renew its report and card.

    Example: unlearn-export evaluate out --require "erasure>=0.95,retain>=0.98"
    """
    from ..artifact import Artifact
    from ..evaluation import Size
    from ..gates import Gate, check, figures
    from ..stages import Assessment, measure, summary

    gates = Gate.parse(require)
    need_scorer(scorer)
    quiet_libraries()
    artifact = Artifact.open(folder)
    artifact.verify()
    with Bars() as hooks:
        how = Assessment(Size(**size), t2v or None, scorer, references, features, seed)
        report = measure(artifact, how, hooks, source=source, config=config).report
    failed = check(report, gates, artifact.probe)
    result = summary(artifact) | {"figures": figures(report), "gates_failed": failed}
    print_result(result, as_json, lambda: evaluation_table(report))
    warn_unless_erased(report)
    for line in failed:
        click.echo(f"gate not met: {line}", err=True)
    if failed:
        raise click.exceptions.Exit(3)


@main.command()
@folder_argument
@click.option("--attack", "names", multiple=True, metavar="NAME", help="Attack to run; repeatable. [default: all]")
@click.option(
    "--budget",
    multiple=True,
    metavar="BUDGET",
    help="quick, default or thorough, and numbers as unlearndiff.steps=60; repeatable.",
)
@click.option("--word", "words", multiple=True, help="The concept's name in another language; repeatable.")
@base_option
@click.option("--scorer", help="Who looks: see docs/identify.md. [default: the base's own, else nobody]")
@click.option("--seed", default=0, type=SEED, help="Of every attack; before and after share it.")
@json_option
def probe(
    folder: Path,
    names: tuple[str, ...],
    budget: tuple[str, ...],
    words: tuple[str, ...],
    source: str | None,
    config: str | None,
    scorer: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Attack an artifact's encoders, with the base's as control, and keep the result in it.

    Example: unlearn-export probe out --attack ring-a-bell --attack relearn --budget quick
    """
    from ..artifact import Artifact
    from ..probe import make_attacks, table
    from ..probe.stage import probe_artifact

    attacks = make_attacks(names, budget, words)
    need_scorer(scorer)
    quiet_libraries()
    artifact = Artifact.open(folder)
    artifact.verify()
    bars = Bars()
    with bars:
        result = probe_artifact(
            artifact,
            attacks,
            seed=seed,
            source=source,
            config=config,
            scorer=scorer,
            strict=bool(names),
            on_progress=bars.show,
        )
    print_result(result.report, as_json, lambda: table(result.report))


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format", "style", type=click.Choice(["text", "markdown", "html"]), default="text", help="Of the table."
)
@json_option
def compare(folders: tuple[Path, ...], style: str, as_json: bool) -> None:
    """Hold evaluated artifacts against each other, the Pareto-best ones marked.

    Example: unlearn-export compare out other --format markdown
    """
    from ..artifact import Artifact
    from ..compare import compare as hold

    found = hold([Artifact.open(folder) for folder in folders])
    print_result(
        found.to_json(), as_json, {"text": found.to_text, "markdown": found.to_markdown, "html": found.to_html}[style]
    )
