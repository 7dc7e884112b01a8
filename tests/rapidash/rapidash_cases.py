"""Shared cases: the formula network of the reference values, random networks and clouds."""

import torch

from liederiv.model_zoo.rapidash import Rapidash, RapidashConfig

Z_TURN = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


def network(seed: int = 0, **settings) -> Rapidash:
    """A small float64 network with random weights."""
    default = {"input_dim": 2, "hidden_dim": 6, "output_dim": 3, "num_layers": 2, "num_ori": 6}
    torch.set_default_dtype(torch.float64)  # the grid of orientations, too
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Rapidash(RapidashConfig(**(default | settings))).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def formula_network(equivariance: str, orientations: int, task: str) -> Rapidash:
    """Weights given by a formula, in the order of their names."""
    net = network(
        input_dim=2 + (orientations > 0),
        hidden_dim=8,
        equivariance=equivariance,
        num_ori=orientations,
        output_dim_vec=int(orientations > 0),
        widening_factor=2,
        task_level=task,
        basis_dim=16,
        basis_hidden_dim=12,
    )
    with torch.no_grad():
        for k, (name, p) in enumerate(sorted(net.named_parameters())):
            i = torch.arange(p.numel(), dtype=torch.float64)
            size = p[0].numel() ** -0.5 if p.ndim > 1 else 0.1
            value = torch.sin(0.7 * i + k + 1) * size + name.endswith("norm.weight")
            p.copy_(value.reshape(p.shape))
    return net


def formula_cloud() -> dict[str, torch.Tensor]:
    """Positions, scalars, a vector and the cloud of seven points."""
    i = torch.arange(7, dtype=torch.float64)
    return {
        "pos": torch.stack([(1.1 * i + 0.2).sin(), (0.7 * i).cos(), (0.5 * i + 1).sin()], -1),
        "x": torch.stack([(0.9 * i).cos(), (0.4 * i + 0.3).sin()], -1),
        "vec": torch.stack([(0.6 * i + 1).cos(), (1.3 * i).sin(), (0.2 * i).cos()], -1)[:, None],
        "batch": torch.tensor([0, 0, 0, 0, 1, 1, 1]),
    }


def random_cloud(sizes: tuple[int, ...], dim: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Clouds of these sizes with one scalar and one vector per point."""
    g = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    return {
        "pos": torch.randn(n, dim, generator=g, dtype=torch.float64),
        "x": torch.randn(n, 1, generator=g, dtype=torch.float64),
        "vec": torch.randn(n, 1, dim, generator=g, dtype=torch.float64),
        "batch": torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
    }


def run(net: Rapidash, cloud: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs; an empty vector where there is none. Without orientations only scalars enter."""
    vec = cloud["vec"] if net.config.num_ori else None
    x = cloud["x"]
    if vec is None:
        x = torch.cat((x, x), -1)
    scalar, vector = net(x, cloud["pos"], cloud["batch"], vec)
    return scalar, scalar.new_zeros(0) if vector is None else vector


def rotation(seed: int = 0, dim: int = 3) -> torch.Tensor:
    """A random rotation matrix."""
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64)).Q
    q[:, 0] *= torch.linalg.det(q)
    return q
