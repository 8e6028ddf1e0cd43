"""`runs predict`: what a trained model gives for the samples in a file."""

from pathlib import Path
from typing import Annotated

import typer

from runner.checkpoint.handle import Checkpoint
from runner.cli.choosing import WeightsFile, found_model
from runner.cli.evaluating import Overrides, Trust, progress_bar
from runner.cli.interrupt import leaving_at_once
from runner.errors import ConfigError


def predict(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A checkpoint, RUN@best, RUN@step=N, a run's newest, or a model's file."),
    ],
    source: Annotated[Path, typer.Option("--input", "-i", help="A sample in each row: *.npy, or *.csv of numbers.")],
    target: Annotated[Path, typer.Option("--output", "-o", help="A new file: *.npy, or *.csv.")],
    overrides: Overrides = None,
    weights: Annotated[
        str, typer.Option("--weights", help="raw, or averaged (of a run with trainer.ema_decay).")
    ] = "raw",
    shape: Annotated[
        str | None, typer.Option("--shape", help="Of a sample, where the model wants another than the file has: 1,8,8.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Of the samples; by default the model's own, and int64 for whole numbers."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Samples at a time.")] = 256,
    force: Annotated[
        bool, typer.Option("--force", help="Replace FILE if it is there, once the new one is whole.")
    ] = False,
    trust: Trust = None,
) -> None:
    """Write the outputs of a checkpoint's model for every sample in a file.

    A row of the output belongs to each row of the input. The model is in eval mode, and computes in the precision and
    on the device of its config (runtime.device=cpu changes it); that of a file without one as a run that is launched
    here. A *.csv file has numbers between commas, a sample in each line; a first line without any number is passed
    over. What is written has no such line.
    """
    place = found_model(path)
    with leaving_at_once():
        from runner.runs.predicting import Form, predict
    form = Form(batch_size, None if shape is None else _sizes(shape), dtype)
    with progress_bar("predicting") as watch:
        predicted = predict(
            place if isinstance(place, Checkpoint) else place.path,
            overrides or (),
            source,
            target,
            form=form,
            weights=weights,
            overwrite=force,
            trust=trust or (),
            watch=watch,
        )
    if predicted.columns:
        print(f"{source}: its first line names {len(predicted.columns)} columns, and is passed over")
    print(f"predicted {target}  {predicted.dtype} {predicted.shape}  {weights} weights of {_said(place)}")


def _said(place: Checkpoint | WeightsFile) -> str:
    return f"step {place.step}" if isinstance(place, Checkpoint) and place.step else str(place.path)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.strip("()[] ").split(","))
    except ValueError as error:
        raise ConfigError(f"--shape {text}: wanted whole numbers with commas between them, such as 1,8,8") from error
