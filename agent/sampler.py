"""Samplers as six numbers a step. Pure: numpy only.

The problem. The exported denoiser of a step knows no sampler; it computes, row by row,

    m = model(s*x, t) with classifier-free guidance      x: latents, t: timestep
    D = p*x + q*m                                        the denoised latents
    x_next = a*x + b*D + c*D_prev                        D_prev: D of the step before

so a sampler is a table of timesteps (K,) and coefficients (K, 6), and generations with different
samplers and step counts share one batch. This file computes those tables; where the steps lie is
noise_levels.py's. Noise that a step adds is not in the graph: the agent adds it (`renewal`).

The algebra. Latents are x = A*x0 + S*e. At noise level (A, S) the model's answer gives D by

    prediction of e:     D = (x - S*m)/A    p = 1/A, q = -S/A   (DDIM, arXiv:2010.02502, eq. 12)
    prediction of v:     D = A*x - S*m      p = A,   q = -S     (arXiv:2202.00512, section 4)
    prediction of x0:    D = m              p = 0,   q = 1
    prediction of flow:  D = x - S*m        p = 1,   q = -S     (m = e - x0 and A + S = 1)

and a deterministic step to level (A', S') keeps x0 = D and e = (x - A*D)/S:

    x' = A'*D + S'*e                        a = S'/S, b = A' - A*S'/S, c = 0   (DDIM, eta = 0)

Euler's method integrates the probability-flow ODE over sigma = S/A in the variance-exploding
coordinate y = x0 + sigma*e = x/A (Karras et al. 2022, arXiv:2206.00364, algorithm 1):
y' = (sigma'/sigma)*y + (1 - sigma'/sigma)*D. With y = x/A this is a = (A'/A)*(sigma'/sigma) = S'/S
and b = A'*(1 - sigma'/sigma) = A' - A*S'/S: **the same step**. So are Euler's step of flow matching
and DPM-Solver++ of first order: they differ only in the levels that they visit. The others:

- ancestral: aims below the next level, at sigma_down, and adds noise up to it;
- DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2): D is extrapolated from D_prev, hence c;
- LCM (arXiv:2310.04378, eq. 9): D is mixed with x so that it is x at t = 0, and then noised again.

Refused: keeping Euler's own coordinate y. With zero terminal SNR it starts at sigma = 4096, where
half precision has a spacing of 4. In x everything has unit variance, and s is always 1.

Tests compare every sampler with diffusers' own, step by step, to 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.noise_levels import Doubles, Grid, grid
from atelier.catalog import FLOW_SAMPLERS, NoiseSchedule

Floats = NDArray[np.float32]

LCM_SIGMA_DATA, LCM_TIMESTEP_SCALE = 0.5, 10.0  # of the boundary condition, as LCM was trained


@dataclass(frozen=True)
class Plan:
    """The way from noise to picture.

    timesteps: float32 (K,), what the model is told.
    coefficients: float32 (K, 6), columns s, p, q, a, b, c.
    initial_scale: what noise ~ N(0, 1) is multiplied with at the start.
    noise_scales: float32 (K,), of the fresh noise that is added after each step; mostly zero.
    levels: float32 (K + 1, 2), (A, S) of the latents before each step, and after the last. What is
        to look like latents of step k (a picture to start from, what lies outside of a mask) is
        A*x0 + S*noise with row k.
    first: the step that it begins with, where a picture to start from saves those before.
    """

    timesteps: Floats
    coefficients: Floats
    initial_scale: float
    noise_scales: Floats
    levels: Floats
    first: int = 0

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def plan(schedule: NoiseSchedule, sampler: str, steps: int, first: int = 0) -> Plan:
    """The table of `sampler` in `steps` steps, to be begun at step `first`.

    Raises:
        ValueError: the sampler is unknown or not for this model, the steps are out of range, or the
            schedule cannot be sampled (predicting e at a level of pure noise says nothing about
            the picture).
    """
    if not 1 <= steps <= schedule.train_timesteps:
        raise ValueError(f"steps must be 1 to {schedule.train_timesteps}, not {steps}")
    if not 0 <= first < steps:
        raise ValueError(f"of {steps} steps, the first to be made must be 0 to {steps - 1}")
    way = grid(schedule, sampler, steps)
    if (sampler in FLOW_SAMPLERS) != (schedule.prediction == "flow"):
        raise ValueError(f"{sampler} is not for a model that predicts {schedule.prediction}")
    p, q = _parametrisation(schedule.prediction, way)
    noise_scales = np.zeros(steps)
    if sampler == "euler_ancestral":
        a, b, noise_scales = _ancestral(way)
        c = np.zeros(steps)
    elif sampler == "lcm":
        keep, out = _boundary(way.timesteps)
        p, q = out * p + keep, out * q
        a, b, c = np.zeros(steps), way.targets[:, 0], np.zeros(steps)
        noise_scales = way.targets[:, 1]
    else:
        a, b = _deterministic(way)
        c = np.zeros(steps)
        if sampler.startswith("dpmpp_2m"):
            b, c = _second_order(way, b, first)
    table = np.stack([np.ones(steps), p, q, a, b, c], axis=1)
    initial_scale = 1.0
    if sampler.startswith("euler") and schedule.timestep_spacing != "leading":
        # diffusers' init_noise_sigma: sqrt(sigma^2 + 1) when leading, else sigma; here in x
        initial_scale = float(way.levels[0, 1])
    return Plan(
        way.timesteps.astype(np.float32),
        table.astype(np.float32),
        initial_scale,
        noise_scales.astype(np.float32),
        way.levels.astype(np.float32),
        first,
    )


def _parametrisation(prediction: str, way: Grid) -> tuple[Doubles, Doubles]:
    """p and q of each step: (K,), (K,)."""
    alpha, sigma = way.levels[:-1, 0], way.levels[:-1, 1]
    if prediction == "v_prediction":
        return alpha, -sigma
    if prediction == "epsilon":
        if alpha.min() == 0.0:
            raise ValueError("a model that predicts noise cannot start from zero terminal SNR")
        return 1 / alpha, -sigma / alpha
    if prediction == "sample":
        return np.zeros_like(alpha), np.ones_like(alpha)
    if prediction == "flow":
        return np.ones_like(alpha), -sigma
    raise ValueError(f"unknown prediction {prediction}")


def _deterministic(way: Grid) -> tuple[Doubles, Doubles]:
    """a and b of x' = A'*D + S'*e: (K,), (K,)."""
    alpha, sigma = way.levels[:-1, 0], way.levels[:-1, 1]
    a = way.targets[:, 1] / sigma
    return a, way.targets[:, 0] - alpha * a


def _ancestral(way: Grid) -> tuple[Doubles, Doubles, Doubles]:
    """a, b and the noise's scale: (K,) each. In y: to sigma_down, then noise of sigma_up."""
    alpha, sigma = way.levels[:-1, 0], way.levels[:-1, 1] / way.levels[:-1, 0]
    alpha_next, sigma_next = way.targets[:, 0], way.targets[:, 1] / way.targets[:, 0]
    up = sigma_next * np.sqrt(sigma**2 - sigma_next**2) / sigma
    down = sigma_next**2 / sigma  # sqrt(sigma_next^2 - up^2)
    return alpha_next / alpha * down / sigma, alpha_next * (1 - down / sigma), alpha_next * up


def _second_order(way: Grid, b: Doubles, first: int) -> tuple[Doubles, Doubles]:
    """b and c where D is replaced by D + (D - D_prev)/(2r), r = the last step's length over this
    one's in lambda = log(A/S); the first step has no D_prev, the last has no length."""
    if len(b) < 3:
        return b, np.zeros_like(b)
    lambdas = np.log(way.levels[:-1, 0] / way.levels[:-1, 1])
    lengths = np.diff(lambdas)  # of all steps but the last
    share = np.zeros_like(b)
    share[1:-1] = lengths[1:] / lengths[:-1] / 2
    share[first] = 0.0
    return b * (1 + share), -b * share


def _boundary(timesteps: Doubles) -> tuple[Doubles, Doubles]:
    """c_skip and c_out of a consistency model (Song et al. 2023, arXiv:2303.01469, eq. 5)."""
    scaled = timesteps * LCM_TIMESTEP_SCALE
    whole = scaled**2 + LCM_SIGMA_DATA**2
    return LCM_SIGMA_DATA**2 / whole, scaled / np.sqrt(whole)


def noise(seed: int, step: int, shape: tuple[int, ...]) -> Floats:
    """Noise ~ N(0, 1) of one picture: float32 `shape`, the same for the same (seed, step) always.

    Counter-based (Philox, Salmon et al. 2011) and keyed, so a resumed generation draws what it
    would have drawn, and a picture's noise does not depend on its neighbours. Step 0 is the
    initial noise, step k is added after the k-th step.
    """
    key = np.array([seed, step], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.standard_normal(shape, dtype=np.float32)


def renewal(plan: Plan, step: int, seeds: Sequence[int], shape: tuple[int, ...]) -> Floats | None:
    """The fresh noise to be added to the latents after step number `step` (from 1), if any.

    Args:
        seeds: of each of the n pictures.
        shape: of one picture's latents.

    Returns:
        float32 (n, *shape); None where the step adds none.
    """
    if not (scale := plan.noise_scales[step - 1]):
        return None
    fresh: Floats = scale * np.stack([noise(seed, step, shape) for seed in seeds])
    return fresh
