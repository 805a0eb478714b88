"""Run an ablation grid: `python ablate.py --help`. Installed, it is `sdcxr-ablate`."""

from ablation.command import entry

if __name__ == "__main__":
    entry()
