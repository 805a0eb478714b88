"""Tuning methods: which parameters of a part train, what is saved of them, and how they are merged."""

from sdcxr.tuning.registry import choose_methods, default_rates, find_method, register, tune

__all__ = ["choose_methods", "default_rates", "find_method", "register", "tune"]
