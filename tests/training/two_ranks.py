"""What one rank of a training does; started by test_world.py as a program of its own.

python two_ranks.py RANK SIZE STORE OUT
"""

import sys
from datetime import timedelta
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor, nn

from runner.data.batches import make_batches
from runner.data.tensors import Tensors
from runner.records import World
from runner.training.evaluate import evaluate
from runner.training.generators import seed_all
from runner.training.objective import Accuracy, Supervised
from runner.training.plan import EarlyStopping, Evaluate, Limits, Trainer
from runner.training.schedule import Constant, CurveScheduler
from runner.training.state import TrainState
from runner.training.steps import steps

FEATURES, CLASSES, SAMPLES = 6, 3, 22
"""Batches of 8: 8, 8, 6. Of the 6, every rank of two has 3."""


class Net(nn.Module):
    """One part gets a gradient only from samples whose first number is positive, another part never."""

    def __init__(self) -> None:
        super().__init__()
        self.always = nn.Linear(FEATURES, CLASSES)
        # Without a bias, so that a sample's score does not depend on which others are in its rank's batch.
        self.sometimes = nn.Linear(FEATURES, CLASSES, bias=False)
        self.never = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.always(x)
        chosen = x[:, 0] > 1.0
        return scores + self.sometimes(x * chosen[:, None]) if bool(chosen.any()) else scores


def data(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return Tensors(
        torch.randn(SAMPLES, FEATURES, generator=generator),
        torch.randint(CLASSES, (SAMPLES,), generator=generator),
    )


def main(rank: int, size: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    world = World(rank, size)
    if size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
        )
    seed_all(1)
    plan = Trainer(
        max_epochs=9,
        max_steps=None,
        max_time=None,
        accumulate=2,
        clip_norm=0.5,
        precision="fp32",
        ema_decay=None,
        schedule="step",
        nonfinite="stop",
        deterministic=True,
        log_every=1,
        evaluate=Evaluate(1, None, "raw"),
        early_stopping=EarlyStopping(None, 0.0),
        limits=Limits(None, None),
    )
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    state = TrainState(
        model=model,
        optimizer=optimizer,
        scheduler=CurveScheduler(optimizer, Constant(warmup_steps=0)),
        device=torch.device("cpu"),
        scaler=None,
        ema_decay=None,
        monitor=None,
        min_delta=0.0,
    )
    objective = Supervised(loss=nn.CrossEntropyLoss(), metrics={"accuracy": Accuracy()})
    settings = {"batch_size": 8, "drop_last": False, "seed": 2, "world": world}
    train = make_batches(data(1), shuffle=True, **settings)
    validation = make_batches(data(2), shuffle=False, **settings)
    taken, gradients = [], []
    for step in islice(steps(state, objective, train, plan, world), 5):
        taken.append((step.loss, float(step.grad_norm), step.progress.samples, step.progress.batch))
        gradients.append({name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()})
    shared = {"split": "validation", "weights": "raw", "precision": "fp32", "world": world}
    evaluation = evaluate(state, objective, validation, interrupted=lambda: False, **shared)
    # One rank alone is interrupted, and all must know.
    broken_off = evaluate(state, objective, validation, interrupted=lambda: rank == size - 1, **shared)
    results = {
        "steps": taken,
        "gradients": gradients,
        "parameters": model.state_dict(),
        "metrics": dict(evaluation.metrics),
        "broken_off": broken_off is None,
    }
    torch.save(results, out)
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
