"""Raw datasets in, dataset folders out: one module per source, run as `python -m data_prep.<source>`."""
