"""Ablation grids: from one YAML file to tables and a report."""
