"""Train the diffusion task whole and sharded by FSDP2; write both courses: `train_sharded.py SETTINGS.json OUT.json`.

Started by torchrun in two processes on CPUs. `fully_shard` is called here by hand because accelerate takes FSDP only
for accelerators.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import default_collate

from sdcxr import tasks
from sdcxr.config import TrainConfig
from sdcxr.data.stream import Stream
from sdcxr.training.loop import tensors

BATCH, STEPS = 8, 5


def course(config: TrainConfig, sharded: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and final weights of a few steps; this process takes its half of each batch where the task is sharded."""
    task: Any = tasks.build(config, torch.device("cpu"))
    stream = Stream(task.examples(), config.seed)
    rank, world = (dist.get_rank(), dist.get_world_size()) if sharded else (0, 1)
    if sharded:
        mesh = init_device_mesh("cpu", (world,))
        for part in (*task.unet.down_blocks, *task.unet.up_blocks, task.text_encoder, task):
            fully_shard(part, mesh=mesh)
    trained = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, eps=1e-4)
    losses = []
    for step in range(STEPS):
        first, share = step * BATCH, BATCH // world
        positions = range(first + rank * share, first + (rank + 1) * share)
        loss = task(tensors(default_collate([stream[position] for position in positions]))).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        if sharded:
            dist.all_reduce(total)
        losses.append(total.item() / world)
    return losses, {name: p.full_tensor() if sharded else p for name, p in task.named_parameters()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    settings = TrainConfig(**json.loads(Path(sys.argv[1]).read_text())).filled()
    (losses, weights), (own_losses, own_weights) = course(settings, sharded=False), course(settings, sharded=True)
    if dist.get_rank() == 0:
        furthest = max((weights[name] - own_weights[name]).abs().max().item() for name in weights)
        result = {"whole": losses, "sharded": own_losses, "furthest": furthest}
        Path(sys.argv[2]).write_text(json.dumps(result))
    dist.destroy_process_group()
