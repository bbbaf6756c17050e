"""What the commands share: the group with its exit codes, options, progress, output."""

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UnlearnExportError, UsageError
from ..openmp import WAITING
from ..plugins import is_embedded

if TYPE_CHECKING:
    from ..measured import Report
    from ..rates import Rate


class Failure(click.ClickException):
    """One line on stderr, and with --json one object on stdout."""

    def __init__(self, error: UnlearnExportError, as_json: bool) -> None:
        super().__init__(" ".join(str(error).split()))
        self.exit_code = error.exit_code  # type: ignore[misc]
        self.as_json = as_json

    def show(self, file: Any = None) -> None:
        if self.as_json:
            click.echo(json.dumps({"error": self.message, "exit_code": self.exit_code}))
        click.echo(f"error: {self.message}", err=True)


EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a gate was not met; of the Hub: 4 authentication, 5 not found or "
    "gated, 6 conflict, 7 rate limit, 8 network, 9 invalid card."
)
SEED = click.IntRange(0, 2**63 - 1)
CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110}


class Tool(click.Group):
    """Turns the library's errors into one line and an exit code."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.context_settings = {**CONTEXT, **cmd.context_settings}
        run = cmd.invoke

        def invoke(ctx: click.Context) -> Any:
            try:
                return run(ctx)
            except UnlearnExportError as error:
                raise Failure(error, bool(ctx.params.get("as_json"))) from error
            except OSError as error:
                from ..artifact import no_space

                if not no_space(error):
                    raise
                full = UnlearnExportError(f"no space is left on the disk: {error}")
                raise Failure(full, bool(ctx.params.get("as_json"))) from error

        cmd.invoke = invoke  # type: ignore[method-assign]
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        words = list(ctx.args)
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else ctx.command_path
            wrong = UsageError(f"{error.format_message()} (see `{where} -h`)")
            raise Failure(wrong, "--json" in words) from error


@click.group(cls=Tool, context_settings=CONTEXT, epilog=EXIT_CODES)
@click.version_option(package_name="unlearn-export")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Erase a concept from a text encoder, measure it, package it, publish it, use it in video pipelines."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # they speak as soon as they are imported
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    if threading.current_thread() is threading.main_thread():  # a polite kill tidies up as Ctrl-C does
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        ctx.call_on_close(lambda: signal.signal(signal.SIGTERM, before))


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def require_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = 'Exit with 3 unless met, as "erasure>=0.95,retain>=0.98,attack:unlearndiff<=0.1".'
    return click.option("--require", default="", metavar="GATES", help=text)(command)


def folder_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("folder", type=click.Path(path_type=Path))(command)


def base_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Where its base is now. [default: where the recipe says]"
    return click.option("--base", "source", help=text)(config_option("where the recipe says")(command))


def config_option(default: str) -> Callable[..., Any]:
    text = f"Pipeline whose configs and tokenizers a base that is one file has. [default: {default}]"
    return click.option("--base-config", "config", metavar="FOLDER_OR_ID", help=text)


def check_revision(source: str, revision: str | None, config: str | None) -> None:
    """Raise UsageError for a --revision that belongs to nothing on the Hub."""
    if not revision:
        return
    from ..single_file import is_single_file

    told = config if is_single_file(source) else source
    if told and (is_embedded(told) or Path(told).is_dir()):
        raise UsageError(f"--revision belongs to a Hub id, and {told} is none: leave it out")


def size_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, default, text in (
        ("target-images", 24, "Images of each erased concept."),
        ("other-images", 3, "Images of each other concept."),
        ("variant-images", 8, "Images of each erased concept by alias, by paraphrase, by composition, as negative."),
        ("target-clips", 12, "Clips of each erased concept, per text-to-video pipeline."),
        ("other-clips", 1, "Clips of each other concept, per text-to-video pipeline."),
        ("variant-clips", 2, "Clips as variant-images, per text-to-video pipeline."),
        ("steps", 12, "Denoising steps of every image and clip."),
    ):
        least = 0 if name.startswith("variant") else 1
        command = click.option(f"--{name}", default=default, type=click.IntRange(min=least), help=text)(command)
    text = "Guidance scale of every image and clip. [default: the base's own]"
    command = click.option("--guidance", type=float, help=text)(command)
    text = (
        "Judge: demo, clip:FOLDER, clip:OWNER/NAME, nudenet, face:FOLDER or module:Factory. [default: the base's own]"
    )
    command = click.option("--scorer", help=text)(command)
    return click.option(
        "--t2v", multiple=True, metavar="PIPELINE", help="Text-to-video pipeline to judge by; repeatable."
    )(command)


class Bars:
    """Progress on stderr: one bar for whatever is under way, with its loss and the time left."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.label = ""

    def __enter__(self) -> Any:
        from ..stages import Hooks

        return Hooks(on_step=self.step, on_progress=self.progress)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, step: int, total: int, loss: float) -> None:
        self.show("erase", step, total)
        if not math.isnan(loss):
            self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)

    def progress(self, label: str, done: int, total: int) -> None:
        self.show(f"evaluate {label}", done, total)

    def show(self, label: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if label != self.label:
            if self.bar is not None:
                self.bar.close()
            often = 0.1 if sys.stderr.isatty() else 10.0  # a log needs less
            self.bar, self.label = tqdm(total=total, desc=label, file=sys.stderr, mininterval=often), label
        self.bar.update(done - self.bar.n)


def quiet_libraries() -> None:
    """What diffusers and transformers would chatter is either checked by us or no business of the user's."""
    import logging
    import warnings

    import diffusers
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)


def print_result(result: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    click.echo(json.dumps(result, ensure_ascii=False) if as_json else text())


def evaluation_table(evaluation: "Report") -> str:
    rows = (
        [f"{'':14} {'':8} {'erased':>14} {'others':>14} {'held out':>14} {'styles':>14}"]
        if evaluation.pipelines
        else []
    )
    for name, seen in evaluation.pipelines.items():
        for moment in ("before", "after"):
            found = seen.before if moment == "before" else seen.after
            cells = [_cell(rate) for rate in (found.erased, found.others, found.holdout, found.styles)]
            rows.append(f"{name if moment == 'before' else '':14} {moment:8} " + " ".join(f"{c:>14}" for c in cells))
    drift = evaluation.drift
    rows.append(
        f"text states moved: concept {drift['concept']:.1%}, others {drift['others']:.1%}, empty {drift['empty']:.2%}"
    )
    for seat, r in evaluation.states.readers if evaluation.states else ():
        said = f"{seat} as {r.reader} reads it{', pooled' if r.what == 'pooled' else ''}: "
        if r.nearer_anchor:
            said += f"unseen prompts nearer to the anchor {_cell(r.nearer_anchor.after)}, "
        said += f"others known again {_cell(r.known_again.before)} → {_cell(r.known_again.after)}"
        rows.append(said + (f", worst moved {r.worst.drift:.1%}: {r.worst.prompt!r}" if r.worst else ""))
    return "\n".join(rows)


def warn_unless_erased(evaluation: "Report | None") -> None:
    """A line on stderr where the concept is still seen."""
    from ..gates import not_erased

    if seen := not_erased(evaluation):
        click.echo(
            f"warning: not erased: in the worst pipeline {seen:.0%} of the pictures still show it; "
            "try other options, or another method",
            err=True,
        )


def _cell(rate: "Rate | None") -> str:
    return "-" if rate is None or rate.told is None else f"{rate.told:.1%} ({rate.n})"
