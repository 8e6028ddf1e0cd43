"""`NNHandler`: a model, what trains it, its training and its files, behind one object.

Thin: it keeps what was set (handler_settings.py), trains with the engine's own loop (handler_training.py), and saves
and loads checkpoints (handler_files.py, handler_restoring.py). Under torchrun every process makes the same calls.
"""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runner.config.calls import call_of, encoded
from runner.doors import handler_files, handler_loading, handler_schedule, handler_settings, handler_training
from runner.doors.handler_making import made_by
from runner.doors.handler_restoring import Asked
from runner.doors.handler_settings import Loss, Parts
from runner.doors.handler_world import placed
from runner.doors.rebuilding import call_without_first
from runner.errors import ConfigError
from runner.runs.handed import remember
from runner.training.module_state import bare
from runner.training.plan import EarlyStopping
from runner.training.schedule import TorchScheduler
from runner.training.state import TrainState


class NNHandler:
    """Trains a model, saves it with all that the training depends on, and goes on exactly where a file stands."""

    def __init__(self, model_class: Callable[..., nn.Module], device: str | torch.device = "cpu", **model_kwargs: Any):
        """Make the model, on `device`. A file says how to make it again, so loading needs no class."""
        here, world = placed(device)
        model = made_by("NNHandler(model_class=...)", model_class, nn.Module, (), model_kwargs)
        node = call_of(model_class, (), model_kwargs)
        remember(node)
        model = model.to(here)
        self.parts = Parts(model, node, here, world, model, run=secrets.token_hex(8))
        """What the functions of handler.py work on."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({handler_settings.described(self.parts)})"

    @property
    def model(self) -> nn.Module:
        """The model, or what was put around it: `handler.model = torch.compile(handler.model)`."""
        return self.parts.network

    @model.setter
    def model(self, network: nn.Module) -> None:
        if bare(network) is not self.parts.model:
            raise ConfigError("handler.model = ...: that is another model; make a new NNHandler for it")
        while isinstance(network, nn.parallel.DistributedDataParallel):
            # The gradients of several processes are summed up as it is.
            network = network.module
        self.parts.network = network

    @property
    def averaged_model(self) -> nn.Module | None:
        """The model with averaged weights, from `train(ema_decay=...)`."""
        state = self.parts.state
        return None if state is None or state.averaged is None else state.averaged.module

    @property
    def device(self) -> torch.device:
        return self.parts.device

    @property
    def optimizer(self) -> Optimizer | None:
        return None if self.parts.state is None else self.parts.state.optimizer

    @property
    def scheduler(self) -> Any:
        """torch's own object; None where none was set."""
        if self.parts.state is None or self.parts.scheduler_node is None or self.parts.scheduler_state is not None:
            return None
        live = self.parts.state.scheduler
        return live.scheduler if isinstance(live, TorchScheduler) else live

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return 0 if self.parts.state is None else self.parts.state.progress.epoch

    @property
    def history(self) -> list[dict[str, float]]:
        """A row for each epoch: `epoch`, `loss`, `lr`, train metrics, and `val_...` where it was validated."""
        return [dict(row) for row in self.parts.history]

    @property
    def train_losses(self) -> list[float]:
        """The mean loss of each epoch."""
        return [row["loss"] for row in self.parts.history]

    @property
    def val_losses(self) -> list[float]:
        """The validation loss of each epoch that was validated."""
        return [row["val_loss"] for row in self.parts.history if "val_loss" in row]

    @property
    def best(self) -> float | None:
        """The best validation loss so far."""
        best = None if self.parts.state is None else self.parts.state.best
        return None if best is None else best.value

    def set_optimizer(self, optimizer_class: Callable[..., Optimizer], **kwargs: Any) -> None:
        """Make a new optimizer of all parameters. A scheduler that drove another one is gone: set it again."""
        parts, old = self.parts, self.parts.state
        optimizer = made_by("set_optimizer", optimizer_class, Optimizer, (parts.model.parameters(),), kwargs)
        parts.optimizer_node = call_without_first(optimizer_class, kwargs)
        parts.scheduler_node = parts.scheduler_state = None
        remember(parts.optimizer_node)
        if old is not None:
            old.optimizer, old.scheduler = optimizer, handler_schedule.unscheduled(optimizer)
            return
        parts.state = TrainState(
            model=parts.model,
            optimizer=optimizer,
            scheduler=handler_schedule.unscheduled(optimizer),
            device=parts.device,
            scaler=None,
            ema_decay=None,
            monitor=handler_training.MONITOR,
            min_delta=0.0,
        )

    def set_scheduler(self, scheduler_class: Callable[..., Any], **kwargs: Any) -> None:
        """Make a new scheduler of the learning rate, after `set_optimizer`.

        It is stepped after every epoch; OneCycleLR and CyclicLR, whose length is counted in steps, after every
        optimizer step; ReduceLROnPlateau with the validation loss, after every validation. After loading a file whose
        scheduler could not be made (of a lambda, say), one of the same class goes on where that one stood.
        """
        parts, state = self.parts, self.parts.state
        if state is None:
            raise ConfigError("set_scheduler: there is no optimizer yet; call set_optimizer first")
        optimizer, waiting = state.optimizer, parts.scheduler_state
        if parts.scheduler_node is not None and not handler_schedule.holds_schedulers(kwargs):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"]
        scheduler = TorchScheduler(made_by("set_scheduler", scheduler_class, LRScheduler, (optimizer,), kwargs))
        if waiting is not None and waiting["class"] == scheduler.kind:
            scheduler.load_state_dict(waiting["state"])
            handler_schedule.set_rates(optimizer, parts.waiting_rates)
        state.scheduler, parts.scheduler_state = scheduler, None
        parts.scheduler_node = call_without_first(scheduler_class, kwargs)
        remember(parts.scheduler_node)

    def set_loss_fn(self, loss_fn: Callable[..., Any], **kwargs: Any) -> None:
        """The mean loss of (outputs, targets): a module, a function with its further arguments, or a class with its."""
        loss = Loss(loss_fn, kwargs)
        if self.parts.loss is not None and "objective" in self.parts.own:
            # Another one than before: it begins as it is.
            self.parts.own = {**self.parts.own, "objective": {**self.parts.own["objective"], "loss": None}}
        self.parts.loss = loss
        arguments = {name: encoded(value) for name, value in kwargs.items()}
        self.parts.loss_node = {"function": encoded(loss_fn), "arguments": arguments}
        remember(self.parts.loss_node)

    def set_train_loader(self, dataset: Any, **kwargs: Any) -> None:
        """The training data, of pairs (inputs, targets): a data set with the arguments of a torch DataLoader, or one.

        As with torch's, `batch_size` is 1 and nothing is shuffled unless asked. Random order and augmentation follow
        from the seed, the epoch and the batch alone. Under several processes `batch_size` counts the samples of all
        together, so that the training is that of one process.
        """
        self.parts.train = handler_settings.split_of("set_train_loader", dataset, kwargs)

    def set_val_loader(self, dataset: Any, **kwargs: Any) -> None:
        """The validation data, in the same way."""
        self.parts.validation = handler_settings.split_of("set_val_loader", dataset, kwargs)

    def add_metric(self, name: str, fn: Callable[[Any, Any], Any]) -> None:
        """A function of (outputs, targets) that gives the mean over them; `name` in training, `val_name` beside."""
        if not name.isidentifier() or name.startswith("val_") or name in ("loss", "lr", "epoch", "step"):
            raise ConfigError(f"add_metric({name!r}): wanted a word that is not taken, such as 'accuracy'")
        self.parts.metrics[name] = fn

    def set_early_stopping(self, patience: int | None, min_delta: float = 0.0) -> None:
        """End after `patience` validations without a loss that is better by more than `min_delta`; None: never."""
        try:
            self.parts.early_stopping = EarlyStopping(patience, min_delta)
        except ValueError as error:
            raise ConfigError(str(error).replace("trainer.early_stopping.", "set_early_stopping: ")) from error

    def auto_save(
        self,
        interval: int | None,
        save_path: str | os.PathLike[str] = ".",
        name: str = "model_epoch{epoch:02d}",
        overwrite: bool = False,
        save_model_code: bool = False,
    ) -> None:
        """Save to a file after every epoch that `interval` divides; -1: after the last alone; None or 0: never.

        `train` also saves its last epoch, unless told otherwise. In `name` stand `{epoch}`, `{loss}`, `{lr}`, the train
        metrics, `{val_loss}` and `{val_NAME}`, with formats; what was not measured becomes `none`, with a warning. With
        `overwrite` only the newest stays, the one before it until that is complete; else nothing is ever overwritten.
        It goes on in a handler that is loaded: then the file that was loaded is the one before.
        `save_model_code` puts the source of the model's class into the file.
        """
        self.parts.auto = handler_settings.auto_save_of(
            interval, save_path, name, overwrite=overwrite, save_model_code=save_model_code
        )

    def train(
        self,
        epochs: int,
        validate_every: int | None = 1,
        gradient_accumulation_steps: int = 1,
        use_amp: bool = False,
        gradient_clipping_norm: float | None = None,
        ema_decay: float = 0.0,
        seed: int | None = None,
        progress_bar: bool = True,
        save_on_last_epoch: bool = True,
    ) -> None:
        """Train `epochs` more. Twice two epochs are four, bit for bit, also through a file and another process.

        Validates after epochs that `validate_every` divides (0 or None: never). `use_amp` computes in float16 on CUDA,
        with a gradient scaler, and in bfloat16 elsewhere. A `seed` seeds the generators when it is first given; trained
        with again, they go on. With `ema_decay` above 0 an averaged model is kept beside the raw one, which is what is
        validated. A signal, such as that of Ctrl-C, ends the training after its step, saved as its last epoch would be;
        in the middle of an epoch the file's name also has `_step7`. KeyboardInterrupt then says how to go on.
        """
        state = self.parts.state
        plan = handler_settings.plan_of(
            epochs=epochs,
            done=self.epoch,
            validate_every=validate_every,
            gradient_accumulation_steps=gradient_accumulation_steps,
            use_amp=use_amp,
            gradient_clipping_norm=gradient_clipping_norm,
            ema_decay=ema_decay,
            schedule="epoch" if state is None else handler_schedule.schedule_of(state.scheduler),
            early_stopping=self.parts.early_stopping,
            device=self.parts.device,
        )
        handler_training.train(
            self.parts, plan, seed=seed, progress_bar=progress_bar, save_on_last_epoch=save_on_last_epoch
        )

    def save(self, path: str | os.PathLike[str], single_file: bool = True, save_model_code: bool = False) -> None:
        """Save everything to one file, or to split files beside each other; the old ones stay until these are whole."""
        row = self.parts.history[-1] if self.parts.history else {}
        metrics = {name: value for name, value in row.items() if name != "epoch"}
        handler_files.write(
            self.parts, Path(path), metrics=metrics, save_model_code=save_model_code, single_file=single_file
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device | None = None,
        strict_load: bool = False,
        skip_optimizer: bool = False,
        skip_scheduler: bool = False,
        skip_history: bool = False,
        skip_ema: bool = False,
        *,
        moved: Mapping[str, Any] | None = None,
        trust: Sequence[str] = (),
        **arguments: Any,
    ) -> Self:
        """The handler of a file, or of split files by their common name or folder; data and metrics are set anew.

        Without `strict_load` tensors that do not fit are passed over, with a warning that names them; none that fits is
        an error. What is skipped begins anew: the optimizer's state; the scheduler; losses, epochs and best; averaged
        weights. `arguments` are those of constructors that no file can hold, such as `lr_lambda=...`, or others now,
        of the model or of a scheduler that is skipped. It is in eval mode until it trains. `moved`: see runner.load.
        """
        skips = {"optimizer": skip_optimizer, "scheduler": skip_scheduler, "history": skip_history, "ema": skip_ema}
        skip = {name for name, asked in skips.items() if asked}
        handler = cls.__new__(cls)
        handler.parts = handler_loading.load(
            Path(path), device, Asked(strict_load, skip, arguments, moved or {}, trust)
        )
        return handler

    @classmethod
    def initialize_from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        model_class: Callable[..., nn.Module],
        device: str | torch.device | None = None,
        strict_load: bool = True,
        **model_kwargs: Any,
    ) -> Self:
        """A new handler of `model_class` with the weights of any file, and nothing else of it."""
        handler = cls(model_class, "cpu" if device is None else device, **model_kwargs)
        handler_loading.load_weights(handler.parts.model, Path(path), strict=strict_load)
        return handler
