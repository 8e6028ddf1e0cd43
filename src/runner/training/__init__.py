"""Training one model: its state, its steps, its evaluation."""
