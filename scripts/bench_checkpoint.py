"""What saving costs a training: `runner` against what others would pick, with and without the syncs they omit.

For each state one process trains, on one thread, and all contestants save out of its loop, in turn, in an order
shuffled every round. Measured are the call that holds the loop up (the making of the state dicts included), the steps
while it is being written, the seconds until it is complete (durable, for ours and those with `+sync`) and the loading
of it, out of the page cache. Peak memory is measured in a process of its own for each. `--look`: what it takes to look
at checkpoints.

    python scripts/bench_checkpoint.py [--states STATE ...] [--rounds N] [--peaks N] [--contestants NAME ...]
        [--look] [--json FILE] [--markdown FILE] [--picture FILE] [--from FILE]
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from bench_names import NAMES, PEERS, REFERENCES, STATES, SYNCED


def measure_state(state: str, names: list[str], rounds: int, root: Path) -> dict[str, Any]:
    """In a process of its own: every contestant, round by round."""
    import torch

    torch.set_num_threads(1)
    from bench_contestants import make
    from bench_training import Training, check, measure

    training = Training(state)
    tensors = training.tensors().values()
    costs: dict[str, Any] = {
        name: {"stall": [], "lost": [], "complete": [], "slowed": [], "load": []} for name in names
    }
    taking_part = {name: make(name, training, root / name) for name in names}
    order = list(taking_part)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            place = root / "place"
            if number == 0:  # It warms up, and nobody is measured who does not save what is there.
                if wrong := check(training, taking_part[name], place):
                    raise SystemExit(f"{name}, {state}: {wrong}")
                continue
            loading = not name.endswith(SYNCED) and name not in REFERENCES
            cost = measure(training, taking_part[name], place, loading=loading)
            for key, values in costs[name].items():
                value = getattr(cost, key)
                if value is not None:
                    values.append(value)
        print(f"{state}: round {number} of {rounds}", file=sys.stderr, flush=True)
    for contestant in taking_part.values():
        contestant.close()
    began = time.perf_counter()
    training.state()
    return {
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "tensors": len(tensors),
        "step": training.usual,
        "state dicts": time.perf_counter() - began,
        "rounds": rounds,
        "contestants": costs,
    }


def measure_peak(state: str, name: str, root: Path) -> int:
    """In a process of its own: one contestant."""
    import torch

    torch.set_num_threads(1)
    from bench_contestants import make
    from bench_training import Training, peak_memory

    training = Training(state)
    contestant = make(name, training, root)
    peak = peak_memory(training, contestant, root / "place")
    contestant.close()
    return peak


def in_process(task: dict[str, Any], directory: Path) -> Any:
    """What `measure_state` or `measure_peak` gives, in a new process."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=directory) as name:
        answer = Path(name, "answer.json")
        told = json.dumps(task | {"root": name, "answer": str(answer)})
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.run([sys.executable, __file__, "--task", told], env=environment, check=False)
        if process.returncode != 0:
            sys.exit(f"{task} ended with {process.returncode}")
        return json.loads(answer.read_text())


def carry_out(told: str) -> None:
    warnings.simplefilter("ignore")
    task = json.loads(told)
    root = Path(task["root"])
    with contextlib.redirect_stdout(sys.stderr):
        answer: Any
        if task["what"] == "peak":
            answer = measure_peak(task["state"], task["name"], root)
        else:
            answer = measure_state(task["state"], task["names"], task["rounds"], root)
    Path(task["answer"]).write_text(json.dumps(answer))


def machine(directory: Path) -> dict[str, Any]:
    import torch

    kind = subprocess.run(["df", "--output=fstype", directory], capture_output=True, text=True, check=False)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "file system": kind.stdout.split()[-1],
    }


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    names = arguments.contestants or list(NAMES)
    if unknown := set(names) - set(NAMES):
        sys.exit(f"no contestant {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    missing = [name for name, package in PEERS.items() if importlib.util.find_spec(package) is None]
    print(f"not installed, so left out: {', '.join(missing)}" if missing else "none left out", flush=True)
    names = [name for name in names if name.removesuffix(SYNCED) not in missing]
    results: dict[str, Any] = {"machine": machine(arguments.directory), "left out": missing, "states": {}, "look": {}}
    for state in arguments.states:
        task = {"what": "state", "state": state, "names": names, "rounds": arguments.rounds}
        results["states"][state] = in_process(task, arguments.directory)
        for name in names:
            # A sync needs no memory.
            rounds = 0 if name in REFERENCES or name.endswith(SYNCED) else arguments.peaks
            peak = {"what": "peak", "state": state, "name": name}
            found = [in_process(peak, arguments.directory) for _ in range(rounds)]
            results["states"][state]["contestants"][name]["peak"] = found
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))
    if arguments.look:
        from bench_look import look

        results["look"] = look(arguments.rounds, arguments.directory)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="What saving costs a training, side by side.")
    parser.add_argument("--states", nargs="*", choices=STATES, default=list(STATES), metavar="STATE")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peaks", type=int, default=3, metavar="N", help="rounds of peak memory, the slowest part")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="an unknown name shows them all; default: all")
    parser.add_argument("--look", action="store_true", help="also measure opening, showing and listing checkpoints")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where to save to")
    parser.add_argument("--from", type=Path, dest="source", metavar="FILE", help="show what --json wrote instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the stalls, as SVG")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        carry_out(arguments.task)
        return
    from bench_picture import picture
    from bench_tables import tables, targets

    results = json.loads(arguments.source.read_text()) if arguments.source else measured(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    text = tables(results)
    print(text)
    print(targets(results))
    if arguments.markdown:
        arguments.markdown.write_text(text)
    if arguments.picture:
        arguments.picture.write_text(picture(results))


if __name__ == "__main__":
    main()
