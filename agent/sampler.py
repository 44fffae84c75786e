"""Samplers as six numbers a step. Pure: numpy only.

The problem. The exported denoiser of a step knows no sampler; it computes, row by row,

    m = model(s*x, t) with classifier-free guidance      x: latents, t: timestep
    D = p*x + q*m                                        the denoised latents
    x_next = a*x + b*D + c*D_prev                        D_prev: D of the step before

so a sampler is a table of timesteps (K,) and coefficients (K, 6), and generations with different
samplers and step counts share one batch. This file computes those tables.

The algebra. Latents are kept variance preserving, x = A*x0 + S*e with A^2 + S^2 = 1 (Ho et al.
2020, arXiv:2006.11239, eq. 4; A^2 is diffusers' `alphas_cumprod`). Then, at noise level (A, S):

    prediction of e:  D = (x - S*m)/A       p = 1/A, q = -S/A   (DDIM, arXiv:2010.02502, eq. 12)
    prediction of v:  D = A*x - S*m         p = A,   q = -S     (arXiv:2202.00512, section 4)

and a deterministic step to level (A', S') keeps x0 = D and e = (x - A*D)/S:

    x' = A'*D + S'*e                        a = S'/S, b = A' - A*S'/S, c = 0   (DDIM, eta = 0)

Euler's method integrates the probability-flow ODE over sigma = S/A in the variance-exploding
coordinate y = x0 + sigma*e = x/A (Karras et al. 2022, arXiv:2206.00364, algorithm 1):
y' = (sigma'/sigma)*y + (1 - sigma'/sigma)*D. With y = x/A and A = 1/sqrt(1 + sigma^2) this is
a = (A'/A)*(sigma'/sigma) = S'/S and b = A'*(1 - sigma'/sigma) = A' - A*S'/S: **the same step**.
The two samplers differ only in the levels that they visit (diffusers' DDIM aims at t - T//K, its
Euler at the next timestep, and it ends at sigma = 0), so there is one formula below, two grids.

Refused: keeping Euler's own coordinate y. With zero terminal SNR it starts at sigma = 4096, where
half precision has a spacing of 4. In x everything has unit variance, and s is always 1.

The grids follow diffusers' DDIMScheduler and EulerDiscreteScheduler to the letter, their oddities
included, because that is what checkpoints were tuned with; tests compare them step by step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from atelier.catalog import SAMPLERS, NoiseSchedule

Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]

TERMINAL_ALPHA_BAR = 2.0**-24  # diffusers' Euler: zero SNR, but with a sigma that is finite


@dataclass(frozen=True)
class Plan:
    """The way from noise to picture.

    timesteps: float32 (K,), what the model is told.
    coefficients: float32 (K, 6), columns s, p, q, a, b, c.
    initial_scale: what noise ~ N(0, 1) is multiplied with at the start.
    """

    timesteps: Floats
    coefficients: Floats
    initial_scale: float

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def plan(schedule: NoiseSchedule, sampler: str, steps: int) -> Plan:
    """The table of `sampler` in `steps` steps.

    Raises:
        ValueError: the sampler is unknown, the steps are out of range, or the schedule cannot be
            sampled (predicting e at a level of pure noise says nothing about the picture).
    """
    if not 1 <= steps <= schedule.train_timesteps:
        raise ValueError(f"steps must be 1 to {schedule.train_timesteps}, not {steps}")
    if sampler == "ddim":
        timesteps, levels = _ddim_grid(schedule, steps)
        initial_scale = 1.0
    elif sampler == "euler":
        timesteps, levels = _euler_grid(schedule, steps)
        # diffusers' init_noise_sigma: sqrt(sigma^2 + 1) when leading, else sigma; here in x
        initial_scale = 1.0 if schedule.timestep_spacing == "leading" else float(levels[0, 1])
    else:
        raise ValueError(f"unknown sampler {sampler}; there are {', '.join(SAMPLERS)}")

    here, there = levels[:-1], levels[1:]
    if sampler == "ddim":
        there = _ddim_targets(schedule, timesteps, steps)
    alpha, sigma = here[:, 0], here[:, 1]
    alpha_next, sigma_next = there[:, 0], there[:, 1]
    if schedule.prediction == "v_prediction":
        p, q = alpha, -sigma
    elif schedule.prediction == "epsilon":
        if alpha.min() == 0.0:
            raise ValueError("a model that predicts noise cannot start from zero terminal SNR")
        p, q = 1 / alpha, -sigma / alpha
    else:
        raise ValueError(f"unknown prediction {schedule.prediction}")
    a = sigma_next / sigma
    b = alpha_next - alpha * a
    table = np.stack([np.ones_like(p), p, q, a, b, np.zeros_like(p)], axis=1)
    return Plan(timesteps.astype(np.float32), table.astype(np.float32), initial_scale)


def noise(seed: int, step: int, shape: tuple[int, ...]) -> Floats:
    """Noise ~ N(0, 1) of one picture: float32 `shape`, the same for the same (seed, step) always.

    Counter-based (Philox, Salmon et al. 2011) and keyed, so a resumed generation draws what it
    would have drawn, and a picture's noise does not depend on its neighbours. Step 0 is the
    initial noise.
    """
    key = np.array([seed, step], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.standard_normal(shape, dtype=np.float32)


def _ddim_grid(schedule: NoiseSchedule, steps: int) -> tuple[_Doubles, _Doubles]:
    """Timesteps (K,) and levels (K + 1, 2); the last level is a placeholder, see _ddim_targets."""
    timesteps = _timesteps(schedule, steps)
    if schedule.timestep_spacing == "linspace":
        timesteps = timesteps.round()
    bars = alpha_bars(schedule)[timesteps.astype(np.int64)]
    return timesteps, _levels(np.append(bars, 1.0))


def _ddim_targets(schedule: NoiseSchedule, timesteps: _Doubles, steps: int) -> _Doubles:
    """The level (K, 2) that each step aims at: that of t - T//K, not of the next timestep."""
    targets = timesteps.astype(np.int64) - schedule.train_timesteps // steps
    bars = alpha_bars(schedule)
    final = 1.0 if schedule.set_alpha_to_one else bars[0]
    return _levels(np.where(targets >= 0, bars[np.maximum(targets, 0)], final))


def _euler_grid(schedule: NoiseSchedule, steps: int) -> tuple[_Doubles, _Doubles]:
    """Timesteps (K,), fractional when linspace, and levels (K + 1, 2) that end without noise."""
    timesteps = _timesteps(schedule, steps)
    bars = alpha_bars(schedule).copy()
    if schedule.zero_terminal_snr:
        bars[-1] = TERMINAL_ALPHA_BAR
    sigmas = np.interp(timesteps, np.arange(len(bars)), np.sqrt((1 - bars) / bars))
    return timesteps, _levels(np.append(1 / (1 + sigmas**2), 1.0))


def _levels(bars: _Doubles) -> _Doubles:
    """(A, S) of each alpha-bar: (K,) -> (K, 2)."""
    return np.stack([np.sqrt(bars), np.sqrt(1 - bars)], axis=1)


def _timesteps(schedule: NoiseSchedule, steps: int) -> _Doubles:
    """Table 2 of Lin et al. 2023 (arXiv:2305.08891), as diffusers rounds it: (K,), descending."""
    total = schedule.train_timesteps
    if schedule.timestep_spacing == "trailing":
        spaced = np.arange(total, 0, -total / steps)[:steps]  # a rounding error may add one
        return spaced.round() - 1
    if schedule.timestep_spacing == "leading":
        ascending = np.arange(steps, dtype=np.float64) * (total // steps) + schedule.steps_offset
        return ascending[::-1].clip(max=total - 1)
    if schedule.timestep_spacing == "linspace":
        return np.linspace(0, total - 1, steps)[::-1]
    raise ValueError(f"unknown timestep spacing {schedule.timestep_spacing}")


@lru_cache(maxsize=64)
def alpha_bars(schedule: NoiseSchedule) -> _Doubles:
    """Cumulative products of 1 - beta: float64 (train_timesteps,), read-only."""
    total, start, end = schedule.train_timesteps, schedule.beta_start, schedule.beta_end
    if schedule.beta_schedule == "linear":
        betas = np.linspace(start, end, total)
    elif schedule.beta_schedule == "scaled_linear":
        betas = np.linspace(math.sqrt(start), math.sqrt(end), total) ** 2
    elif schedule.beta_schedule == "squaredcos_cap_v2":
        # Nichol and Dhariwal 2021 (arXiv:2102.09672), eq. 17
        ideal = np.cos((np.arange(total + 1) / total + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - ideal[1:] / ideal[:-1], 0.999)
    else:
        raise ValueError(f"unknown beta schedule {schedule.beta_schedule}")
    bars: _Doubles = np.cumprod(1 - betas)
    if schedule.zero_terminal_snr:  # Lin et al. 2023, algorithm 1
        roots = np.sqrt(bars)
        bars = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    bars.flags.writeable = False
    return bars
