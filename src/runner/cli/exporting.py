"""`runs export`: the weights of a checkpoint in a file for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from runner.checkpoint.handle import Checkpoint
from runner.cli.choosing import found_model
from runner.quantities import size


def export_weights(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A checkpoint, RUN@best, RUN@step=N, a run's newest, or any file with weights."
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file: *.safetensors, *.pt or *.pth.")],
    weights: Annotated[
        str, typer.Option("--weights", help="raw, or averaged (of a run with trainer.ema_decay).")
    ] = "raw",
) -> None:
    """Write a checkpoint's weights into a file that other programs read.

    *.safetensors holds the weights, and the config in its header. *.pt is the dict of torch's tutorial (epoch,
    model_state_dict, optimizer_state_dict, loss); torch.load(FILE, weights_only=True) reads it. Its optimizer's state
    is for an optimizer of the parameters that were trained, in the model's order.
    """
    place = found_model(path)
    checkpoint = place if isinstance(place, Checkpoint) else None
    from runner.runs.export import export
    from runner.runs.restorable import read_restorable

    written = export(checkpoint or read_restorable(path, "latest", []), file, weights=weights)
    what = f"step {checkpoint.step}" if checkpoint is not None and checkpoint.step else path
    print(f"exported {file}  {size(written)}  {weights} weights of {what}")
