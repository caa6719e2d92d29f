"""One of two processes that hold parts of a batch; test_synced.py starts both, and compares.

usage: two_processes.py RANK FOLDER; reads FOLDER/batch.pt, writes FOLDER/RANK.pt
"""

import copy
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustlabels.training.sharing import Share
from robustlabels.training.synced_norm import synced


class Operators(TorchDispatchMode):
    """Writes down the names of all operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.name())
        return func(*args, **(kwargs or {}))


rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", f"file://{folder / 'meet'}", rank=rank, world_size=2)
cases = torch.load(folder / "batch.pt", weights_only=False)
found = []
for norm, x, weights, rows in cases:
    mine = x[rows[rank]].requires_grad_()
    with synced(nn.Sequential(norm)):
        for _ in range(2):
            y = norm(mine)
        (y * weights[rows[rank]]).sum().backward()
    kind = type(norm)
    before = [p.grad.clone() for p in norm.parameters()]
    flag = torch.tensor(rank == 1)
    Share.here().sum_gradients(norm.parameters(), flag)
    found.append(
        {
            "y": y.detach(),
            "x": mine.grad,
            "parameters": [p.grad for p in norm.parameters()],
            "own": before,
            "buffers": dict(norm.named_buffers()),
            "kind": kind.__module__,
            "flag": bool(flag),
        }
    )

# A parameter that one process has no gradient of, one that none has, and another type.
shared, only_second, idle = (nn.Parameter(torch.ones(2, 2)) for _ in range(3))
wide = nn.Parameter(torch.ones(3, dtype=torch.float64))
shared.grad, wide.grad = torch.full((2, 2), 1.0 + rank), torch.full((3,), 0.5, dtype=torch.float64)
if rank == 1:
    only_second.grad = torch.eye(2)
# What a layer must not do on a GPU, there or back: copy from the host, or to it.
norm, x, weights, rows = copy.deepcopy(cases[0])
with synced(nn.Sequential(norm)), Operators() as operators:
    (norm(x[rows[rank]].requires_grad_()) * weights[rows[rank]]).sum().backward()
# In eval mode one process may have a batch, and another none.
norm, x, _, rows = cases[2]
alone = None
with synced(nn.Sequential(norm.eval())):
    if rank == 0:
        alone = norm(x[rows[0]].detach())
flag = torch.tensor(False)
Share.here().sum_gradients([shared, only_second, idle, wide], flag)
sums = [p.grad for p in (shared, only_second, idle, wide)]
result = {"norms": found, "sums": sums, "flag": bool(flag), "alone": alone}
result["operators"] = sorted(operators.seen)
torch.save(result, folder / f"{rank}.pt")
dist.destroy_process_group()
