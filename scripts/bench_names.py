"""The names in the checkpoint benchmark, apart from what they stand for: no torch here."""

OURS, OURS_BLOCKING = "runner", "runner, blocking"
COPY, WRITE, WRITE_BESIDE = "one memory copy", "one plain write", "one plain write beside"
REFERENCES = (COPY, WRITE, WRITE_BESIDE)
OWN = (OURS, OURS_BLOCKING, *REFERENCES)
PEERS = {
    "torch.save": "torch",
    "safetensors": "safetensors",
    "dcp": "torch",
    "dcp async": "torch",
    "dcp async, kept": "torch",
    "lightning": "lightning",
    "lightning async": "lightning",
    "ignite": "ignite",
    "accelerate": "accelerate",
}
"""By name: the package that it needs. dcp is torch.distributed.checkpoint."""
SYNCED = " +sync"
"""Behind a peer's name: equalised, made as durable as ours is."""
NAMES = (*OWN, *(f"{name}{form}" for name in PEERS for form in ("", SYNCED)))
STATES = ("1MB", "200MB", "1GB", "3000x4KiB")
"""Model and AdamW, 48 tensors at 1 MB, else 200; the last one has 1,500 layers of 32 x 32 and their momentum."""
OPEN = "Checkpoint.open, beyond `import runner`"
SHOW = "`runs show RUN`, in all"
LISTING = "listing 10,000 checkpoints of 1 GB"
