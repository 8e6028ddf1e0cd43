"""The parts of a training's state that a resume can leave behind, by the names that `+reset=[...]` takes."""

RESETTABLE = {
    "optimizer": "what it keeps for each parameter, momentum say",
    "scheduler": "how far along it is",
    "scaler": "the scale of fp16's gradients",
    "averaged": "the averaged weights begin at the raw ones",
    "position": "the unfinished epoch begins again with its first batch",
    "best": "the best score so far",
    "early_stopping": "how long no score has been better",
    "generators": "the random generators, seeded as for a new run",
    "objective": "the objective's own state",
}
