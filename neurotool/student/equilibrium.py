"""Fixed points z = f(z) and gradients through them by the implicit function theorem.

Only students with feedback need this: without it the Jacobian is strictly lower triangular over the layers and the
implicit gradient equals one ordinary backward pass. (The one library for this, torchdeq, has had no release since
2023; the solver is forty lines.)
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def anderson(
    f: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float = 1e-4, max_iterations: int = 50, history: int = 5
) -> tuple[Tensor, list[float]]:
    """Anderson acceleration (Walker & Ni 2011) of z <- f(z), one least-squares problem per batch element.

    Args: start: (batch, ...).
    Returns (z, residuals), residuals being |f(z) - z| / |f(z)| at each iteration. Logs a warning, and returns the best
    point, when `tolerance` is not reached within `max_iterations`.
    """
    batch = start.shape[0]
    z = start
    points: list[Tensor] = []
    values: list[Tensor] = []
    residuals: list[float] = []
    best, best_residual = start, float("inf")
    for _ in range(max_iterations):
        value = f(z)
        residual = float((value - z).norm() / value.norm().clamp_min(1e-12))
        residuals.append(residual)
        if residual < best_residual:
            best, best_residual = value, residual
        if residual <= tolerance:
            return best, residuals
        points, values = [*points, z][-history:], [*values, value][-history:]
        z = _mix(points, values) if len(points) > 1 else value
        z = z.view(batch, *start.shape[1:])
    logger.warning(
        "equilibrium not reached: residual %.1e after %d iterations, wanted %.1e; gradients are approximate. "
        "A smaller --learning-rate or a larger --v-threshold makes the feedback contract.",
        best_residual,
        max_iterations,
        tolerance,
    )
    return best, residuals


def _mix(points: list[Tensor], values: list[Tensor]) -> Tensor:
    """The combination of past values whose combined residual is smallest, coefficients summing to 1."""
    g = torch.stack([(v - p).flatten(1) for p, v in zip(points, values, strict=True)], dim=1)
    f = torch.stack([v.flatten(1) for v in values], dim=1)
    differences = g[:, 1:] - g[:, :-1]
    # Unit length first: near convergence their sizes span many orders of magnitude, and few of them are independent.
    scale = differences.norm(dim=2, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
    directions = differences / scale
    ridge = 10 * torch.finfo(g.dtype).eps * torch.eye(directions.shape[1], dtype=g.dtype, device=g.device)
    gram = directions @ directions.transpose(1, 2) + ridge
    gamma = torch.linalg.solve(gram, directions @ g[:, -1:].transpose(1, 2)) / scale
    return f[:, -1] - ((f[:, 1:] - f[:, :-1]).transpose(1, 2) @ gamma).squeeze(-1)


def implicit_gradient(f: Callable[[Tensor], Tensor], z: Tensor, tolerance: float = 1e-4) -> tuple[Tensor, list[float]]:
    """The fixed point z = f(z) as a tensor whose backward pass solves x = J^T x + g (J = df/dz at z).

    Args: f: differentiable, its parameters receive gradients; z: the (simulated) fixed point, no graph.
    Returns (fixed point with gradient, the list the backward pass fills with its residuals). Memory does not depend on
    the number of iterations or time steps.
    """
    z = z.detach().requires_grad_()
    value = f(z)
    attached = value + 0
    residuals: list[float] = []

    def solve(gradient: Tensor) -> Tensor:
        def transposed(x: Tensor) -> Tensor:
            return torch.autograd.grad(value, z, x, retain_graph=True)[0] + gradient

        solution, trace = anderson(transposed, gradient, tolerance=tolerance)
        residuals[:] = trace
        return solution

    if attached.requires_grad:
        attached.register_hook(solve)
    return attached, residuals
