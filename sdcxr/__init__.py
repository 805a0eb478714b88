"""Fine-tune Stable Diffusion on chest radiographs. Importing this package imports nothing heavy."""

__version__ = "0.2.0"
