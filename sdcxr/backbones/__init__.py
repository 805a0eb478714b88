"""Backbones: families of text-to-image models behind one protocol, found by the class in model_index.json."""

from sdcxr.backbones.registry import load, locate_pipeline, refuse_half, register, save

__all__ = ["load", "locate_pipeline", "refuse_half", "register", "save"]
