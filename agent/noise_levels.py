"""Where a sampler's steps lie: timesteps, and the noise level (A, S) at each. Pure: numpy only.

A level says how much picture and how much noise the latents hold, x = A*x0 + S*e. Diffusion models
keep A^2 + S^2 = 1 (Ho et al. 2020, arXiv:2006.11239, eq. 4; A^2 is diffusers' `alphas_cumprod`),
flow matching keeps A + S = 1 (Lipman et al. 2023, arXiv:2210.02747).

The grids follow diffusers' schedulers to the letter, their oddities included, because that is what
checkpoints were tuned with: DDIM aims at t - T//K and not at the next timestep, DPM-Solver spaces
K + 1 points and drops one, flow matching shifts the ends of its range twice. Figures are float64,
except that alphas go through float32 where diffusers' do: its rounding is seen after 1000 factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from atelier.catalog import NoiseSchedule

Doubles = NDArray[np.float64]

TERMINAL_ALPHA_BAR = 2.0**-24  # diffusers' stand-in for zero, so that sigma = S/A is finite
KARRAS_RHO = 7.0  # Karras et al. 2022 (arXiv:2206.00364), eq. 5


@dataclass(frozen=True)
class Grid:
    """K steps.

    timesteps: (K,), what the model is told.
    levels: (K + 1, 2), (A, S) of the latents before each step, and after the last.
    targets: (K, 2), (A, S) that each step aims at.
    """

    timesteps: Doubles
    levels: Doubles
    targets: Doubles


def grid(schedule: NoiseSchedule, sampler: str, steps: int) -> Grid:
    """The grid of `sampler` in `steps` steps.

    Raises:
        ValueError: the sampler, or something of the schedule, is unknown.
    """
    if sampler not in _GRIDS:
        raise ValueError(f"unknown sampler {sampler}; there are {', '.join(_GRIDS)}")
    return _GRIDS[sampler](schedule, steps)


def _ddim(schedule: NoiseSchedule, steps: int) -> Grid:
    timesteps = _timesteps(schedule, steps)
    if schedule.timestep_spacing == "linspace":
        timesteps = timesteps.round()
    bars = alpha_bars(schedule)
    aims = timesteps.astype(np.int64) - schedule.train_timesteps // steps
    final = 1.0 if schedule.set_alpha_to_one else bars[0]
    targets = _levels(np.where(aims >= 0, bars[np.maximum(aims, 0)], final))
    return Grid(timesteps, _levels(np.append(bars[timesteps.astype(np.int64)], 1.0)), targets)


def _euler(schedule: NoiseSchedule, steps: int) -> Grid:
    timesteps = _timesteps(schedule, steps)  # fractional when linspace
    return _of_sigmas(timesteps, np.interp(timesteps, *_sigma_table(schedule)))


def _dpm(schedule: NoiseSchedule, steps: int) -> Grid:
    timesteps = _dpm_timesteps(schedule, steps)
    return _of_sigmas(timesteps, np.interp(timesteps, *_sigma_table(schedule)))


def _dpm_karras(schedule: NoiseSchedule, steps: int) -> Grid:
    _, table = _sigma_table(schedule)
    roots = np.linspace(table[-1] ** (1 / KARRAS_RHO), table[0] ** (1 / KARRAS_RHO), steps)
    sigmas = roots**KARRAS_RHO
    timesteps = np.interp(np.log(sigmas), np.log(table), np.arange(len(table)))
    if schedule.beta_schedule != "squaredcos_cap_v2":
        timesteps = timesteps.round()
    return _of_sigmas(np.trunc(timesteps), sigmas)


def _lcm(schedule: NoiseSchedule, steps: int) -> Grid:
    """Luo et al. 2023 (arXiv:2310.04378): some of the steps that the teacher was distilled at."""
    original = schedule.original_steps
    if steps > original:
        raise ValueError(f"lcm: steps must be 1 to {original}, not {steps}")
    taught = np.arange(1, original + 1) * (schedule.train_timesteps // original) - 1
    chosen = np.floor(np.linspace(0, original, steps, endpoint=False)).astype(np.int64)
    timesteps = taught[::-1][chosen]
    levels = _levels(np.append(alpha_bars(schedule)[timesteps], 1.0))
    return Grid(timesteps.astype(np.float64), levels, levels[1:])


def _flow(schedule: NoiseSchedule, steps: int) -> Grid:
    """Flow matching, shifted towards noise (Esser et al. 2024, arXiv:2403.03206, section 5.3.2)."""
    total = schedule.train_timesteps
    most, least = _shifted(np.array([1.0, 1 / total]), schedule)
    sigmas = _shifted(np.linspace(float(most), float(least), steps), schedule)
    levels = np.stack([1 - np.append(sigmas, 0.0), np.append(sigmas, 0.0)], axis=1)
    return Grid(sigmas * total, levels, levels[1:])


_GRIDS: dict[str, Callable[[NoiseSchedule, int], Grid]] = {
    "ddim": _ddim,
    "euler": _euler,
    "euler_ancestral": _euler,
    "dpmpp_2m": _dpm,
    "dpmpp_2m_karras": _dpm_karras,
    "lcm": _lcm,
    "flow_euler": _flow,
}


def _shifted(sigmas: Doubles, schedule: NoiseSchedule) -> Doubles:
    return schedule.shift * sigmas / (1 + (schedule.shift - 1) * sigmas)


def _of_sigmas(timesteps: Doubles, sigmas: Doubles) -> Grid:
    """The grid whose S/A are `sigmas` (K,), ending without noise."""
    levels = _levels(np.append(1 / (1 + sigmas**2), 1.0))
    return Grid(timesteps, levels, levels[1:])


def _levels(bars: Doubles) -> Doubles:
    """(A, S) of each alpha-bar: (K,) -> (K, 2)."""
    return np.stack([np.sqrt(bars), np.sqrt(1 - bars)], axis=1)


def _sigma_table(schedule: NoiseSchedule) -> tuple[Doubles, Doubles]:
    """All timesteps, and S/A at each: (T,), (T,)."""
    bars = alpha_bars(schedule).copy()
    if schedule.zero_terminal_snr:
        bars[-1] = TERMINAL_ALPHA_BAR
    return np.arange(len(bars), dtype=np.float64), np.sqrt((1 - bars) / bars)


def _timesteps(schedule: NoiseSchedule, steps: int) -> Doubles:
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


def _dpm_timesteps(schedule: NoiseSchedule, steps: int) -> Doubles:
    """As _timesteps, but of K + 1 points the last is left out, except when trailing."""
    total = schedule.train_timesteps
    if schedule.timestep_spacing == "leading":
        ascending = np.arange(1, steps + 1, dtype=np.float64) * (total // (steps + 1))
        return (ascending[::-1] + schedule.steps_offset).clip(max=total - 1)
    if schedule.timestep_spacing == "linspace":
        return np.linspace(0, total - 1, steps + 1).round()[:0:-1]
    return _timesteps(schedule, steps)


@lru_cache(maxsize=64)
def alpha_bars(schedule: NoiseSchedule) -> Doubles:
    """Cumulative products of 1 - beta: float64 (train_timesteps,), read-only.

    1 - beta is rounded to float32 as diffusers rounds it: that error is multiplied a thousand times
    and is seen in the fifth digit of sigma where there is little noise.
    """
    total, start, end = schedule.train_timesteps, schedule.beta_start, schedule.beta_end
    one = np.float32(1)
    if schedule.beta_schedule == "linear":
        betas = np.linspace(start, end, total).astype(np.float32)
    elif schedule.beta_schedule == "scaled_linear":
        betas = np.linspace(math.sqrt(start), math.sqrt(end), total).astype(np.float32) ** 2
    elif schedule.beta_schedule == "squaredcos_cap_v2":
        # Nichol and Dhariwal 2021 (arXiv:2102.09672), eq. 17
        ideal = np.cos((np.arange(total + 1) / total + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - ideal[1:] / ideal[:-1], 0.999).astype(np.float32)
    else:
        raise ValueError(f"unknown beta schedule {schedule.beta_schedule}")
    alphas = one - betas
    if schedule.zero_terminal_snr:  # Lin et al. 2023, algorithm 1
        roots = np.sqrt(np.cumprod(alphas, dtype=np.float64).astype(np.float32))
        roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
        bars = roots**2
        alphas = one - (one - np.concatenate([bars[:1], bars[1:] / bars[:-1]]))
    rounded = np.cumprod(alphas, dtype=np.float64).astype(np.float32).astype(np.float64)
    rounded.flags.writeable = False
    return rounded
