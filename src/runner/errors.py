"""Every error that a user can cause.

    RunnerError
    ├── ConfigError        the launch asks for something that does not exist or cannot be     (ValueError)
    ├── DataError          a data file or data set that cannot be read or used                (ValueError)
    ├── TrustError         a file names a target that this user has not trusted               (PermissionError)
    ├── ResumeError        what should be resumed is not there or cannot be gone on with      (RuntimeError)
    │   └── LockedError    another process is working on the run
    ├── CheckpointError    a checkpoint that cannot be read                                   (ValueError)
    │   ├── DamagedError   its bytes are not those that were written
    │   ├── FormatError    not a checkpoint, or of a format that this version does not read
    │   ├── MismatchError  its tensors do not fit the model that they are loaded into    (RuntimeError)
    │   └── MissingError   nothing is there                                               (FileNotFoundError)
    ├── SaveError          a checkpoint that could not be written; the earlier ones are whole (OSError)
    │   └── ExistsError    something is there, and was not to be overwritten              (FileExistsError)
    ├── InitializationError an object could not be made from its class and arguments          (RuntimeError)
    └── TrainingError      the training cannot go on: the loss is not finite, an optimizer
                           cannot do what was asked                                           (ArithmeticError)

Each also subclasses the built-in error that a caller would have caught.
A message says where, what is there, what was wanted, and what to do.
"""

from collections.abc import Sequence


class RunnerError(Exception):
    """Anything that a user of the runner can cause and can mend."""

    refused = True
    """Nothing had begun when it was raised: what it refuses has left everything as it was."""


class ConfigError(RunnerError, ValueError):
    """A config that cannot be run. `problems` holds one or two lines for each mistake; all are found at once."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[tuple[str, ...]]]:
        return (type(self), (self.problems,))


class DataError(RunnerError, ValueError):
    """A data file or data set that cannot be read or used."""


class TrustError(RunnerError, PermissionError):
    """A config from a file names a target that this user has not trusted."""


class ResumeError(RunnerError, RuntimeError):
    """What should be resumed is not there, or cannot be gone on with."""


class LockedError(ResumeError):
    """Another process is working on the run; the message names it."""


class CheckpointError(RunnerError, ValueError):
    """A checkpoint that cannot be read."""


class DamagedError(CheckpointError):
    """The bytes of a checkpoint are not those that were written."""


class FormatError(CheckpointError):
    """Not a checkpoint, or one of a format that this version does not read."""


class MismatchError(CheckpointError, RuntimeError):
    """The tensors of a file do not fit a model. torch raises RuntimeError for it."""


class MissingError(CheckpointError, FileNotFoundError):
    """Nothing is there to be read."""


class SaveError(RunnerError, OSError):
    """A checkpoint that could not be written. Those written before are whole."""


class ExistsError(SaveError, FileExistsError):
    """Something stands where a file was to be written, and was not to be overwritten."""


class InitializationError(RunnerError, RuntimeError):
    """An object that is to be saved could not be made from its class and arguments, or has not been made yet."""


class TrainingError(RunnerError, ArithmeticError):
    """The training cannot go on."""
