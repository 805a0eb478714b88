"""Noise processes: time, corruption, target and loss weight of diffusion and rectified flow, as pure functions."""
