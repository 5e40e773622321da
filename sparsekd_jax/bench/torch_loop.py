"""The digits job as a plain PyTorch loop: eager, a step a batch, the masks multiplied in after each step."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sparsekd_jax import data


def loop(
    digits: data.Arrays, logits: np.ndarray, *, steps: int, sparsity: float, learning_rate: float
) -> Callable[[], Any] | None:
    """A call that trains once, or None where PyTorch is not installed, or lacks the device that JAX uses.

    The same job as `distill.run` has in `bench.training`: the MLP 64-256-256-10, batch 128 from an epoch's
    shuffle, AdamW, power at T = 4 on both sides with T² and α = 0.1, a prune at the start and one in the
    middle, magnitudes ranked over all kernels.

    Args:
        digits: the data.
        logits: the teacher's, ``[n, 10]``.
        steps: optimizer steps.
        sparsity: of the second stage; the first has 7/8 of it.
        learning_rate: of AdamW.
    """
    try:
        import torch
        from torch import nn
        from torch.nn import functional
    except ImportError:
        return None
    # On the device that JAX trains on: a GPU beside a CPU would compare the devices.
    device = {"cpu": "cpu", "gpu": "cuda"}.get(jax.devices()[0].platform)
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        return None
    inputs = torch.from_numpy(digits.train_inputs).to(device)
    labels = torch.from_numpy(digits.train_labels).long().to(device)
    taught = torch.from_numpy(np.array(logits)).to(device)
    temperature, alpha, batch = 4.0, 0.1, 128
    log_targets = functional.log_softmax(taught / temperature, dim=-1)

    def train() -> Any:
        torch.manual_seed(0)
        sizes = (64, 256, 256, 10)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        model = nn.Sequential(*layers[:-1]).to(device)
        kernels = [p for p in model.parameters() if p.ndim == 2]
        masks = [torch.ones_like(p) for p in kernels]
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
        order = torch.empty(0, dtype=torch.long, device=device)
        for step in range(steps):
            if step in (0, steps // 2) and sparsity > 0:
                rate = sparsity * (7 / 8 if step == 0 else 1)
                sizes_of = torch.cat([p.detach().abs().flatten() for p in kernels])
                threshold = sizes_of.kthvalue(round(rate * sizes_of.numel())).values
                masks = [(p.detach().abs() > threshold).to(p.dtype) for p in kernels]
            if len(order) < batch:
                order = torch.randperm(len(inputs), device=device)
            rows, order = order[:batch], order[batch:]
            z = model(inputs[rows])
            student = functional.log_softmax(z / temperature, dim=-1)
            soft = functional.kl_div(student, log_targets[rows], reduction="batchmean", log_target=True)
            hard = functional.cross_entropy(z, labels[rows])
            loss = (1 - alpha) * temperature**2 * soft + alpha * hard
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if sparsity > 0:
                with torch.no_grad():
                    for kernel, mask in zip(kernels, masks, strict=True):
                        kernel.mul_(mask)
        if device == "cuda":
            torch.cuda.synchronize()  # steps are queued, not done, when Python leaves the loop
        return model

    return train
