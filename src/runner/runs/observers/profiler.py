"""A trace of the torch profiler over a few steps."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from runner.records import Record, Started, Step


class Profiler:
    """Writes to `<run>/profile/<attempt>/` a trace of `steps` steps after `skip_steps`, and a table of their costs."""

    def __init__(self, *, skip_steps: int, steps: int) -> None:
        self.skip_steps, self.steps = skip_steps, steps
        self.directory: Path | None = None
        self.profile: profile | None = None

    def observe(self, record: Record) -> None:
        if isinstance(record, Started):
            self.directory = record.directory / "profile" / f"{record.attempt:03d}"
            self.directory.mkdir(parents=True)
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            plan = schedule(wait=max(0, self.skip_steps - 1), warmup=1, active=self.steps, repeat=1)
            self.profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write)
            self.profile.start()
        elif isinstance(record, Step) and self.profile is not None:
            self.profile.step()

    def _write(self, done: profile) -> None:
        if self.directory is not None:
            done.export_chrome_trace(str(self.directory / "trace.json"))
            table = done.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
            (self.directory / "table.txt").write_text(table + "\n", encoding="utf-8")

    def close(self) -> None:
        if self.profile is not None:
            self.profile.stop()
            self.profile = None
