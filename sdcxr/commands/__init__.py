"""Entry points: `train.py` and `generate.py`, and the same as installed scripts."""
