"""Commands that make an artifact: erase, undo, methods."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..concept import KINDS, Concept, check_concepts
from ..errors import UsageError
from ..extras import need_onnx, need_scorer
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
    size_options,
    warn_unless_erased,
)

if TYPE_CHECKING:
    from ..measured import Report
    from ..remake import Terms


def build_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command takes that makes an artifact."""
    out, images = click.Path(path_type=Path), click.Path(path_type=Path)
    for option in (
        json_option,
        size_options,
        click.option("--device", default="cpu", help="Where to edit: cpu, cuda, cuda:1 …"),
        click.option("--overwrite", is_flag=True, help="Replace an existing folder, once the new one is complete."),
        click.option("--no-evaluate", is_flag=True, help="Skip the evaluation."),
        click.option("--no-onnx", is_flag=True, help="Skip the ONNX graph."),
        click.option("--images", type=images, help="Folder of pictures, in place of the base's own."),
        click.option("-o", "--out", required=True, type=out, help="Artifact folder to make."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("concepts", nargs=-1, metavar="CONCEPT...")
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Concepts in a .json, .yaml or .csv, a plan of `identify -o`, or a recipe.json, in place of CONCEPT.",
)
@click.option("--base", "source", help='"demo", a diffusers folder, a Hub id, or a .safetensors file.')
@click.option(
    "--from",
    "origin",
    type=click.Path(path_type=Path),
    metavar="ARTIFACT",
    help="Erase what it has forgotten as well, from its base and in its way; --base says where that is now.",
)
@config_option("what diffusers takes")
@click.option("--revision", help="Commit, tag or branch of a Hub id.")
@click.option("--method", default="anchor", help="See `unlearn-export methods`.")
@click.option("-O", "options", multiple=True, metavar="KEY=VALUE", help="Hyper-parameter of the method; repeatable.")
@click.option("--kind", type=click.Choice(KINDS), default="object", help="Chooses the prompt templates.")
@click.option("--alias", "aliases", multiple=True, help="Another word for the (only) concept; repeatable.")
@click.option(
    "--anchor",
    default="",
    show_default=False,
    help="What it becomes. [default: a known neighbour; a concept unknown to the base needs one]",
)
@click.option("--retain", multiple=True, help="A neighbour that must survive; repeatable.")
@click.option("--seed", default=0, type=SEED, help="Same seed, same bytes, on one machine.")
@click.option(
    "--seat", "seats", multiple=True, help="Encoder to edit, such as text_encoder_2; repeatable. [default: all]"
)
@click.option(
    "--reader", "readers", multiple=True, metavar="PIPELINE", help="Pipeline class to cover as well; see `families`."
)
@click.option("--dry-run", is_flag=True, help="Tell what would be edited, what that reaches and costs; edit nothing.")
@build_options
def erase(
    concepts: tuple[str, ...],
    plan: Path | None,
    source: str | None,
    origin: Path | None,
    config: str | None,
    revision: str | None,
    method: str,
    options: tuple[str, ...],
    kind: Any,
    aliases: tuple[str, ...],
    anchor: str,
    retain: tuple[str, ...],
    seed: int,
    seats: tuple[str, ...],
    readers: tuple[str, ...],
    dry_run: bool,
    **how: Any,
) -> None:
    """Erase concepts from a base's text encoder and write the artifact folder.

    Example: unlearn-export erase pizza --base demo -o out
    """
    if not concepts and not plan:
        raise UsageError("nothing to erase: name a concept, such as pizza, or give a --plan")
    if aliases and len(concepts) > 1:
        raise UsageError("--alias belongs to one concept: erase several with a call each, or leave it out")
    if origin:
        _refuse("--from takes the way it was made", "method", "options", "seed", "seats", "readers", "revision")
    elif source is None:
        raise click.UsageError("nothing to erase from: give --base, such as --base demo")
    else:
        check_revision(source, revision, config)
    from ..artifact import Artifact, check_free

    check_free(how["out"], overwrite=how["overwrite"])
    if not dry_run:
        _need(**how)
    wanted = _planned(plan) if plan else [Concept(name, kind, aliases, anchor, retain) for name in concepts]
    check_concepts(wanted, profile_of(source).vocabulary if source else None)
    pairs = dict(_pair(text) for text in options)
    quiet_libraries()
    from ..erasers import make_method
    from ..remake import Terms, more, terms

    if origin:
        found = Artifact.open(origin)
        wanted = more(found.recipe.concepts, wanted)
        check_concepts(wanted)
        made = terms(found, source, config, images=how["images"], device=how["device"])
    else:
        from ..base import load_base

        eraser = make_method(method, pairs)
        made = Terms(load_base(str(source), revision, how["device"], readers, config), eraser, seed, seats)
    if dry_run:
        from ..erase import choose_seats
        from ..forecast import forecast, text, to_json

        seen = forecast(made.base, choose_seats(made.base, made.seats), made.method)
        print_result({"seats": to_json(seen)}, how["as_json"], lambda: text(seen))
        return
    _make(made, wanted, **how)


@main.command()
@folder_argument
@click.argument("concepts", nargs=-1, required=True, metavar="CONCEPT...")
@base_option
@build_options
def undo(folder: Path, concepts: tuple[str, ...], source: str | None, config: str | None, **how: Any) -> None:
    """Make an artifact anew that draws CONCEPT again and has forgotten all else that ARTIFACT has.

    It is made of the base, so nothing of CONCEPT's edit is left. Example: unlearn-export undo two robot -o one
    """
    from ..artifact import Artifact, check_free
    from ..remake import terms, without

    artifact = Artifact.open(folder)
    wanted = without(artifact.recipe.concepts, concepts)
    check_free(how["out"], overwrite=how["overwrite"])
    _need(**how)
    quiet_libraries()
    _make(terms(artifact, source, config, images=how["images"], device=how["device"]), wanted, **how)


@main.command()
@json_option
def methods(as_json: bool) -> None:
    """List the erasers and their hyper-parameters.

    Example: unlearn-export methods --json
    """
    import inspect
    from dataclasses import MISSING, fields

    from ..erasers import DEFAULT, erasers

    known: dict[str, dict[str, Any]] = {
        name: {
            "summary": (inspect.getdoc(cls) or "").splitlines()[0],
            "default": name == DEFAULT,
            "options": {f.name: f.default for f in fields(cls) if f.default is not MISSING},
            "meanings": {f.name: f.metadata["meaning"] for f in fields(cls) if "meaning" in f.metadata},
        }
        for name, cls in erasers().items()
    }

    def text() -> str:
        lines = []
        for name, about in known.items():
            lines.append(f"{name}{' (default)' if about['default'] else ''}: {about['summary']}")
            for key, value in about["options"].items():
                setting = f"-O {key}={'+'.join(value) if isinstance(value, tuple) else value}"
                lines.append(f"    {setting:30} {about['meanings'].get(key, '')}".rstrip())
        return "\n".join(lines)

    print_result(known, as_json, text)


def _planned(plan: Path) -> list[Concept]:
    """The plan's concepts. Raises UsageError where the command line describes concepts too."""
    from ..plan import read_plan

    _refuse("--plan already says what to erase", "concepts", "kind", "aliases", "anchor", "retain")
    return read_plan(plan)


def _refuse(why: str, *names: str) -> None:
    """Raise UsageError where one of these parameters was given."""
    context = click.get_current_context()
    for param in context.command.params:
        if param.name in names and context.get_parameter_source(param.name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(
                f"{why}: leave out {param.make_metavar(context) if param.name == 'concepts' else param.opts[0]}"
            )


def _need(*, no_onnx: bool, no_evaluate: bool, scorer: str | None, **_: Any) -> None:
    """Raise DependencyError where a package lacks that the last stages will want."""
    if not no_onnx:
        need_onnx("the ONNX graph", ", or go without one: --no-onnx")
    if not no_evaluate:
        need_scorer(scorer)


def _make(
    terms: "Terms",
    concepts: Sequence[Concept],
    *,
    out: Path,
    images: Path | None,
    no_onnx: bool,
    no_evaluate: bool,
    overwrite: bool,
    device: str,
    t2v: tuple[str, ...],
    scorer: str | None,
    as_json: bool,
    **size: Any,
) -> None:
    """Build the artifact and tell of it; the rest is what ``build_options`` take. device: the base is there already."""
    from ..evaluation import Size
    from ..stages import Assessment, build, summary

    with Bars() as hooks:
        artifact = build(
            terms.base,
            concepts,
            terms.method,
            out,
            images=images,
            seed=terms.seed,
            seats=terms.seats,
            onnx=not no_onnx,
            evaluation=None if no_evaluate else Assessment(Size(**size), t2v or None, scorer),
            overwrite=overwrite,
            hooks=hooks,
        )
    result = summary(artifact) | {"seconds": hooks.seconds}
    print_result(result, as_json, lambda: _erased_text(result, artifact.evaluation))
    warn_unless_erased(artifact.evaluation)
    if not no_onnx and not artifact.has_onnx:
        click.echo(
            f"no ONNX graph: it would be large; `unlearn-export export {out} --limit-gb 30` writes one", err=True
        )


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise UsageError(f"-O {text!r} is no KEY=VALUE, such as -O steps=80")
    return key.strip(), value.strip()


def _erased_text(result: dict[str, Any], evaluation: "Report | None") -> str:
    lines = [
        f"{name} → {anchor}" if anchor else name
        for name, anchor in zip(result["concepts"], result["anchors"], strict=True)
    ]
    seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in result["seconds"].items())
    lines.append(f"{result['path']}: {result['files']} files by {result['method']} ({seconds})")
    if evaluation:
        lines.append(evaluation_table(evaluation))
    return "\n".join(lines)
