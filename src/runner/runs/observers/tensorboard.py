"""TensorBoard: curves of every scalar, in event files under the run directory."""

from typing import TYPE_CHECKING

from runner.errors import ConfigError
from runner.records import Ended, Epoch, Evaluation, Record, Started, Step

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes to `<run>/tensorboard`. A resumed run goes on in the same curves; what was taken back is hidden."""

    def __init__(self) -> None:
        """Raises ConfigError if TensorBoard is not installed."""
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as e:
            raise ConfigError(
                f"observers.tensorboard: TensorBoard is not installed ({e}); "
                "pip install 'runner[tensorboard]', or use observers=none"
            ) from e
        self.writer: SummaryWriter | None = None

    def observe(self, record: Record) -> None:
        """Write the scalars of `record`, by the finished steps."""
        if isinstance(record, Started):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(
                str(record.directory / "tensorboard"),
                # An earlier attempt may have written more than what this one goes on from.
                purge_step=record.progress.step + 1 if record.attempt > 1 else None,
            )
        elif self.writer is None:
            return
        elif isinstance(record, Step):
            if record.loss is not None:
                self._scalars({"loss": record.loss, "lr": record.lr}, record.progress.step)
        elif isinstance(record, Epoch):
            self._scalars({"epoch/loss": record.loss}, record.progress.step)
        elif isinstance(record, Evaluation):
            self._scalars(dict(record.metrics), record.progress.step)
        elif isinstance(record, Ended):
            self.writer.flush()

    def _scalars(self, values: dict[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
