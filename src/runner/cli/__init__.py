"""The commands: `runner` launches, `runs` looks after what has run."""
