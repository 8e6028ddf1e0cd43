"""What one rank of a handler's training does; of two, test_handler_world.py starts each as a program of its own.

python handler_ranks.py FOLDER, in the environment that torchrun makes
"""

import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import lr_scheduler

sys.path.append(str(Path(__file__).parent))

from handler_nets import accuracy, data

from runner import NNHandler
from runner.doors import handler_world
from runner.errors import RunnerError


def give_data(handler: NNHandler) -> None:
    handler.set_train_loader(data(), batch_size=8, shuffle=True)
    handler.set_val_loader(data(1), batch_size=8)
    handler.add_metric("accuracy", accuracy)


def main(folder: Path) -> None:
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    # Another beginning on each rank: that of rank 0 holds.
    torch.manual_seed(rank)
    handler = NNHandler(nn.Linear, in_features=4, out_features=3)
    assert dist.is_initialized() == (size > 1)
    handler.set_optimizer(torch.optim.AdamW, lr=0.05)
    handler.set_scheduler(lr_scheduler.StepLR, step_size=1, gamma=0.5)
    handler.set_loss_fn(nn.CrossEntropyLoss())
    give_data(handler)
    own = folder / f"rank{rank}"
    handler.auto_save(2, own, "{epoch}")
    handler.train(2, seed=5, ema_decay=0.9, progress_bar=False)
    handler.save(folder / "half.pth")
    handler.save(folder / "split.pth", single_file=False)
    loaded = NNHandler.load(folder / "half.pth")
    give_data(loaded)
    loaded.auto_save(None)
    for one in (handler, loaded):
        one.train(2, seed=5, ema_decay=0.9, progress_bar=False, save_on_last_epoch=False)
    history = handler.history
    weights = {name: value.clone() for name, value in handler.model.state_dict().items()}
    averaged = {name: value.clone() for name, value in handler.averaged_model.state_dict().items()}
    failed = []
    # A folder that rank 0 cannot write to is no folder on any rank; a file that is not there, is there on none.
    (folder / "file").write_text("")
    for fails in (lambda: handler.save(folder / "file" / "a.pth"), lambda: NNHandler.load(folder / f"only{rank}.pth")):
        try:
            fails()
        except RunnerError as error:
            failed.append(f"{type(error).__name__}: {error}")
    # Last, because the processes are parted by it.
    handler.add_metric("broken", lambda outputs, targets: [0.0][1 if rank == size - 1 else 0])
    try:
        handler.train(1, ema_decay=0.9, progress_bar=False)
    except (IndexError, RuntimeError) as error:
        failed.append(type(error).__name__)
    results = {
        "history": history,
        "weights": weights,
        "averaged": averaged,
        "loaded": loaded.model.state_dict(),
        "loaded_history": loaded.history,
        "saved": sorted(path.name for path in own.iterdir()) if own.exists() else [],
        "failed": failed,
    }
    torch.save(results, folder / f"results{rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    handler_world.PATIENCE = timedelta(seconds=1)
    main(Path(sys.argv[1]))
