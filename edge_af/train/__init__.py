"""Training: the loop, one update, checkpoints and distillation."""
