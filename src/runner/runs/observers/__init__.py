"""What looks on while a run goes on. An observer never changes the training."""
