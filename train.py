"""Fine-tune Stable Diffusion: `accelerate launch train.py --help`. Installed, it is `sdcxr-train`."""

from sdcxr.commands.train import entry

if __name__ == "__main__":
    entry()
