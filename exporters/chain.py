"""The whole chain, prompts to pictures: ours against diffusers; what INT8 and previews learn from.

Both start from the same noise and use the same scheduler's numbers. A large model is compared at a
quarter of its size and in two steps, because a step of it takes a CPU minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters import int8, int8_gate, preview
from exporters.gate import Array, Pictures, compare_pictures
from exporters.job import Job
from exporters.measure import open_session
from exporters.memory import give_back
from exporters.parity import PROMPTS, SEED, Step, Tokenizers, draw, table
from exporters.spec import MODEL_FILE, TOKENIZER_FILE
from exporters.tokenizers import save_tokenizer

GUIDANCE = 1.5
MOST_STEPS = 20
FEW_STEPS = 4  # of models that were distilled for few
LARGE_BYTES = 200_000_000  # of a denoiser's weights on disk
LARGE_STEPS, LARGE_SHARE, LARGE_PROMPTS = 2, 4, 4
QUANTIZED = ("denoiser", "vae_decoder")
CALIBRATION_SEED = 11
# What INT8 and previews are fitted to, INT8 as one batch; PROMPTS is what they have not seen.
CALIBRATION_PROMPTS = (
    "a green circle on a white background",
    "a small red ring at the left on a yellow background",
    "a large blue square at the top on a black background",
    "a white cross at the right on a purple background",
    "a yellow triangle at the bottom on a blue background",
    "a small black circle on an orange background",
    "a large purple ring on a green background",
    "an orange square at the left on a red background",
)
Tell = Callable[[float, str], object]


class Chain:
    """Draws PROMPTS, with exported components or with diffusers."""

    def __init__(self, job: Job) -> None:
        self._job, self._family, self._spec = job, job.family, job.spec
        denoiser = self._family.graphs["denoiser"].parts(job.checkpoint)[0]
        files = job.checkpoint.weight_files(denoiser)
        self.large = large = sum(file.stat().st_size for file in files) > LARGE_BYTES
        unit, share = self._spec.downscale * job.multiple, LARGE_SHARE if large else 1
        self.width, self.height = (max(unit, s // share // unit * unit) for s in job.shapes[0])
        few = MOST_STEPS if self._family.guided else FEW_STEPS
        self.steps = LARGE_STEPS if large else few
        # Stronger guidance makes as much of a difference as it makes of a picture.
        self.guidance = GUIDANCE if self._family.guided else self._family.defaults.guidance

    def compare(self, paths: Mapping[str, Path], min_psnr: float, tell: Tell) -> Pictures:
        """How near the components' pictures are to diffusers'."""
        tell(0.1, "diffusers")
        expected = self._reference(SEED)
        give_back()
        tell(0.6, "exported")
        sessions = {role: open_session(path) for role, path in paths.items() if _drawing(role)}
        got = self._draw(sessions, PROMPTS, SEED)
        how = f"{self.width}x{self.height}, {self.steps} steps, against diffusers' pipeline"
        return compare_pictures(got, expected, min_psnr, how)

    def quantize(
        self, paths: Mapping[str, Path], folder: Path
    ) -> dict[str, list[int8_gate.Likeness]]:
        """Write INT8 models of QUANTIZED into folders of `folder`; how like they are, by role.

        Raises:
            Int8Error: one is too far from its source.
        """
        learnt = self._feeds(paths, CALIBRATION_PROMPTS, CALIBRATION_SEED)
        unseen = self._feeds(paths, PROMPTS, SEED)
        likenesses = {}
        for role in QUANTIZED:
            target = folder / role / MODEL_FILE
            target.parent.mkdir()
            int8.quantize(paths[role], target, learnt[role])
            likenesses[role] = int8_gate.compare(paths[role], target, unseen[role])
            int8_gate.require(likenesses[role], self._family.int8)
        return likenesses

    def preview(self, paths: Mapping[str, Path], tell: Tell) -> preview.Preview:
        """The map from latents to small pictures, fitted to CALIBRATION_PROMPTS."""
        sessions: dict[str, Any] = {r: open_session(paths[r]) for r in paths if _drawing(r)}
        decoder = sessions["vae_decoder"] = int8.Recorder(sessions["vae_decoder"])
        prompts = CALIBRATION_PROMPTS[: LARGE_PROMPTS if self.large else None]
        learnt = []
        for k in range(0, len(prompts), len(PROMPTS)):  # no more rows at once than compare draws
            tell(k / (len(prompts) + len(PROMPTS)), "drawing")
            images = self._draw(sessions, prompts[k : k + len(PROMPTS)], CALIBRATION_SEED + k)
            latents = decoder.feeds[-1]["latents"]
            noised = preview.noised(latents, CALIBRATION_SEED + k)
            learnt += [(latents, images), (noised, decoder.run(None, {"latents": noised})[0])]
        images = self._draw(sessions, PROMPTS, SEED)
        return preview.fit(learnt, [(decoder.feeds[-1]["latents"], images)], self._spec)

    def _feeds(
        self, paths: Mapping[str, Path], prompts: Sequence[str], seed: int
    ) -> dict[str, list[Any]]:
        """What the components are fed while pictures are drawn."""
        sessions = {
            role: int8.Recorder(open_session(path))
            for role, path in paths.items()
            if _drawing(role)
        }
        self._draw(sessions, prompts, seed)
        return {role: list(session.feeds) for role, session in sessions.items()}

    def _reference(self, seed: int) -> Array:
        pipeline = self._job.checkpoint.pipeline(self._family.pipeline())
        pipeline.scheduler = self._family.scheduler(self._job.checkpoint.schedule)
        more: dict[str, Any] = {}
        if self._spec.masking == "concat":
            mask, known = self._edit(seed, len(PROMPTS))
            full = torch.from_numpy(mask).repeat_interleave(self._spec.downscale, -1)
            more["mask"] = full.repeat_interleave(self._spec.downscale, -2)
            more["known"] = torch.from_numpy(known)
        images = self._family.ask(
            pipeline,
            list(PROMPTS),
            self._spec,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            latents=torch.from_numpy(self._noise(seed, len(PROMPTS))),
            generator=torch.Generator().manual_seed(SEED),
            height=self.height,
            width=self.width,
            **more,
        )
        levels: Array = (np.asarray(images) * 255).round().astype(np.uint8)
        return levels

    def _draw(self, sessions: Mapping[str, Any], prompts: Sequence[str], seed: int) -> Array:
        scheduler = self._family.scheduler(self._job.checkpoint.schedule)
        steps: list[Step] = list(table(scheduler, self.steps))
        scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
        tokenizers = self._tokenizers()
        rows = len(prompts)
        ids = tokenizers.encode([""] * rows), tokenizers.encode(prompts)
        latents = self._noise(seed, rows) * np.float32(scale)
        edit = self._edit(seed, rows) if self._spec.masking == "concat" else None
        return draw(sessions, self._spec, ids, steps, latents, self.guidance, edit)

    def _noise(self, seed: int, rows: int) -> Array:
        down = self._spec.downscale
        sides = iter((self.height // down, self.width // down))
        dims = (n if n > 0 else next(sides) for n in self._spec.latent_dims)
        shape = (rows, *dims)
        return np.random.default_rng(seed).standard_normal(shape, np.float32)

    def _edit(self, seed: int, rows: int) -> tuple[Array, Array]:
        """A mask of the left half, and latents that stand for a masked picture."""
        known = self._noise(seed + 1, rows)
        mask = np.zeros_like(known[:, :1])
        mask[..., : mask.shape[-1] // 2] = 1
        return mask, known

    def _tokenizers(self) -> Tokenizers:
        """As the agent reads them, from files written for it."""
        names, second = self._job.tokenizers, self._job.second_ids
        lengths = ((self._spec.ids or self._spec.tokens) - second, second)[: len(names)]
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                save_tokenizer(self._job.checkpoint.tokenizer(name), Path(folder) / name)
            files = [f"{name}/{TOKENIZER_FILE}" for name in names]
            made = Tokenizers(Path(folder), files, lengths)
        made.pad_with(*(self._job.checkpoint.special_ids(name)[1] for name in names))
        return made


def _drawing(role: str) -> bool:
    return role != "vae_encoder"
