"""`runs`: look after what has run. `ls`, `show`, `diff` and `verify` read, `tag` protects, `prune` and `rm` delete.

`evaluate` and `predict` use what was trained; `verify-resume` proves that a run resumes exactly.

Exit codes: 0 done; 1 damaged, different, not confirmed, or nobody reads on; 2 refused, with a line or two that say why.
"""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from runner.checkpoint.handle import Checkpoint
from runner.cli.checking import verify
from runner.cli.choosing import found_anything, found_checkpoint
from runner.cli.differing import show_differences
from runner.cli.evaluating import evaluate
from runner.cli.exporting import export_weights
from runner.cli.listing import show_list
from runner.cli.model_file import of_door, of_weights, show_source
from runner.cli.model_page import model_json
from runner.cli.packing import pack_checkpoint, unpack_checkpoint
from runner.cli.predicting import predict
from runner.cli.pruning import prune
from runner.cli.removing import remove_run
from runner.cli.showing import checkpoint_json, run_json, show_checkpoint, show_file, show_run
from runner.cli.summary import plain, summarize, to_json
from runner.cli.tagging import tag_checkpoint
from runner.cli.verifying import verify_resume
from runner.config.finding import OUTPUTS
from runner.errors import ResumeError, RunnerError
from runner.quantities import size
from runner.rundir import RunDir, find_runs

REFUSED = 2
# Typer has its own copy of click in newer versions, so the class is found where both have it.
_UsageError: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    help="Look after what has run.", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def main() -> None:
    """The console script."""
    logging.basicConfig(format="runs: %(message)s", level=logging.WARNING)
    sys.exit(_main())


def _main() -> int:
    try:
        code = app(prog_name="runs", standalone_mode=False)
        sys.stdout.flush()
    except RunnerError as e:
        return _refuse(str(e))
    except _UsageError as e:
        message = e.format_message()
        if message.startswith("Usage:"):  # `runs` alone.
            print(message)
            return 0
        return _refuse(f"{message.rstrip('.')}; see `runs --help`")
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader, say `head`, has seen enough. What is still buffered must not raise again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        # A file of a run, or a place, that this user may not look at; without a name, what is written to.
        where = e.filename or "the output"
        return _refuse(f"{where}: cannot be read or written ({e.strerror or e}); free some space or make it accessible")
    return code if isinstance(code, int) else 0


@app.command("ls")
def list_runs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to look, at any depth.")] = OUTPUTS,
    as_json: Json = False,
) -> None:
    """List runs, the newest last.

    With name, status, steps, best score by the config's monitor, age and size.
    """
    if not directory.is_dir() and directory != OUTPUTS:
        if directory.is_file():
            raise ResumeError(
                f"{directory}: is a file, and no directory of runs; runs show {directory} shows what it is"
            )
        raise ResumeError(f"{directory}: {'not a directory' if directory.exists() else 'is not there'}; name one")
    summaries = [summarize(run) for run in find_runs(directory)]
    if as_json:
        _print_json([to_json(summary) for summary in summaries])
    elif not summaries:
        print(f"no runs in {directory}")
    else:
        show_list(summaries, directory)


@app.command()
def show(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A run, RUN@WHICH, a checkpoint, a file with a model in it, or `latest`."),
    ],
    source: Annotated[
        bool, typer.Option("--source", help="Print the source of the model's class, as it was saved with the model.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a run, a checkpoint, or a model's file.

    Of a run: config, metrics, files, attempts. Of a file: who saved it, how its model is made, its tensors.
    """
    if source:
        show_source(found_checkpoint(path), terminal=sys.stdout.isatty())
        return
    place = found_anything(path)
    now, console = datetime.now(UTC), Console()
    if isinstance(place, RunDir):
        summary = summarize(place)
        if as_json:
            _print_json(run_json(summary))
        else:
            show_run(console, summary, now)
        return
    checkpoint = place if isinstance(place, Checkpoint) else None
    file = of_weights(place.path) if checkpoint is None else of_door(checkpoint)
    if as_json:
        of_file = {} if file is None else plain(model_json(file))
        _print_json({"kind": "file"} | of_file if checkpoint is None else checkpoint_json(checkpoint) | of_file)
    elif file is not None:
        show_file(console, file, checkpoint, now)
    elif checkpoint is not None:
        show_checkpoint(console, checkpoint, now)


@app.command("rm")
def remove(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs with all their checkpoints.

    Asks first. Refuses what is running and what is not a run.
    """
    runs = {path.resolve(): _removable(path) for path in paths}
    summaries = [summarize(run) for run in runs.values()]
    for summary in summaries:
        if summary.status == "running":
            raise ResumeError(f"{summary.run.path}: is running; stop it first, nothing was deleted")
    total = size(sum(summary.size for summary in summaries))
    if not yes:
        if not sys.stdin.isatty():
            raise ResumeError(
                "there is no terminal to ask for confirmation; nothing was deleted; add --yes if you are sure"
            )
        for summary in summaries:
            print(f"{summary.run.path}  {summary.run.name}  {summary.status}  step {summary.step}")
        noun = "this run" if len(runs) == 1 else f"these {len(runs)} runs"
        if not typer.confirm(f"Delete {noun} with all checkpoints, {total}?"):
            print("nothing was deleted")
            raise typer.Exit(1)
    for summary in summaries:
        remove_run(summary.run)
        print(f"deleted {summary.run.path}  {size(summary.size)}")


app.command("tag")(tag_checkpoint)
app.command("diff")(show_differences)
app.command("verify")(verify)
app.command("verify-resume")(verify_resume)
app.command("prune")(prune)
app.command("evaluate")(evaluate)
app.command("predict")(predict)
app.command("export")(export_weights)
app.command("pack")(pack_checkpoint)
app.command("unpack")(unpack_checkpoint)


def _removable(path: Path) -> RunDir:
    if path.is_symlink():
        raise ResumeError(f"{path}: is a link to {path.resolve()}; name that directory, nothing was deleted")
    try:
        return RunDir.open(path)
    except ResumeError as e:
        raise ResumeError(f"{e}; nothing was deleted") from e


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _refuse(message: str) -> int:
    for line in message.splitlines():
        print(f"runs: {line}", file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    main()
