"""`runner --help`: what it is, what can be typed, what there is to choose from. Reads names of files, nothing else."""

from collections.abc import Sequence
from pathlib import Path

GROUPS = {
    "model": "what is trained",
    "data": "what it is trained on",
    "objective": "the loss and the metrics",
    "optimizer": "how parameters move",
    "scheduler": "how the learning rate moves",
    "trainer": "how long, how precise, when to evaluate",
    "checkpoint": "when to save, what to keep",
    "runtime": "device, workers, threads",
    "observers": "who else looks on",
    "experiment": "a name for a few overrides",
    "debug": "shortcuts to find out whether it works",
}

_TEXT = """\
runner: train what a config describes, save it as it goes, and go on exactly where it stopped.

  runner [OVERRIDE ...]               launch
  runner -m KEY=A,B [OVERRIDE ...]    sweep: one run for each combination
  runner +resume=RUN [OVERRIDE ...]   go on with a run, with other values if you like
  runner -m +resume=RUN KEY=A,B       several new runs, each from a copy of its checkpoint

overrides
  optimizer.lr=3e-4      another value                optimizer=sgd     another option of a group
  +model.bias=false      a value that is not there    ~experiment       leave a group out
  model._target_=mynets.Net    any class or function that can be imported from here

launch words (never saved)
  +resume=outputs/2026-11-22/17-05-09-123456    a run or a checkpoint; latest: the newest run
         =RUN@best  =RUN@step=1200              another checkpoint of it than the newest
         =auto      the run of this very config if there is one, else a new one: for jobs that are started again
  +allow=[model]     go on although the model is another one
  +reset=[optimizer] start this part of the state anew
  +trust=[mypackage] let a saved config name targets in mypackage

groups and their options
{groups}

flags
  --cfg job              print the config that would be used, and stop
  --info defaults        print which files it is made of
  --config-dir DIR       more options from DIR/GROUP/*.yaml (./conf is found by itself)
  --hydra-help           the flags of Hydra, on which this is built
  --shell-completion install=bash    completion: eval "$(runner --shell-completion install=bash)"

examples
  runner                                         the default experiment
  runner experiment=digits_cnn debug=fast        another one, a few steps only
  runner -m optimizer.lr=1e-2,1e-3 seed=0,1      four runs
  runner +resume=latest trainer.max_epochs=40    longer
  runner init_from=RUN@best optimizer.lr=1e-4    a new run that begins with the weights of another, or of any file

configs     {directories}
see also    runs --help: list, show, check and remove what has been run; README.md
"""


def overview(directories: Sequence[Path]) -> str:
    """The text of --help, with the options found in `directories`."""
    width = max(map(len, GROUPS))
    lines = [
        f"  {group:<{width}}  {', '.join(_options(group, directories)):<44}  {what}" for group, what in GROUPS.items()
    ]
    return _TEXT.format(groups="\n".join(lines), directories="  ".join(map(str, directories)))


def _options(group: str, directories: Sequence[Path]) -> list[str]:
    return sorted({file.stem for directory in directories for file in (directory / group).glob("*.yaml")})
