"""Training: the loop, optimizer, moving average, checkpoints, validation, progress."""
