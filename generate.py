"""Generate chest radiographs from prompts: `accelerate launch generate.py --help`. Installed: `sdcxr-generate`."""

from sdcxr.commands.generate import entry

if __name__ == "__main__":
    entry()
