"""From the command line to a checked config: the only folder, with cli/launch.py, that knows Hydra and OmegaConf."""
