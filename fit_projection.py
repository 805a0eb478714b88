"""Fit a text encoder to a base: `python fit_projection.py --help`. Installed: `sdcxr-fit-projection`."""

from sdcxr.commands.fit_projection import entry

if __name__ == "__main__":
    entry()
