"""Data preparation: raw dataset to dataset folder, one command per source, `python -m data_prep.<source>`."""
