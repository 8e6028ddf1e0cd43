"""`runs pack` and `runs unpack`: a checkpoint as one file, to copy or to send, and back."""

from pathlib import Path
from typing import Annotated

import typer

from runner.checkpoint.archive import pack, unpack
from runner.cli.choosing import found_checkpoint
from runner.quantities import size


def pack_checkpoint(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint, RUN@best, RUN@step=N, or a run's newest.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; its name ends in .zip, .pt or .pth.")],
    compress: Annotated[bool, typer.Option("--compress", help="Compress by zstd; .zip only.")] = False,
) -> None:
    """Pack a checkpoint into one file, verified, without loss.

    A .pt file is opened by torch.load(weights_only=True), too. Packed files are read, shown, verified and resumed from
    as they are.
    """
    checkpoint = found_checkpoint(path)
    written = pack(checkpoint, file, compress=compress)
    print(f"packed {checkpoint.path} into {file}  {size(written)}")


def unpack_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `runs pack` wrote.")],
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="A new directory, or an empty one.")],
) -> None:
    """Unpack a packed checkpoint, verified: every byte as it was."""
    checkpoint = unpack(file, directory)
    print(f"unpacked {file} into {directory}  {size(checkpoint.manifest.size)}")
