"""Samples folder and dataset folder in, scores out: one module per question, run as `python -m eval.<question>`."""
