"""The graphs of a checkpoint that every family shares, as torch modules.

All tensors have the batch axis first; N is the number of rows, one for each picture or clip. What
comes in and goes out is float32 whatever the weights are, and so is the sampler's update: it adds
small steps to large latents.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exporters.spec import Masking


class DenoiserStep(nn.Module):
    """One whole denoise step: guidance and the sampler's update around one call of the model.

    With x the latents, t the timestep and coefficients (s, p, q, a, b, c), row by row:

        m    = m_neg + guidance * (m_pos - m_neg)   with m_* = model(s*x, t, text)
        D    = p*x + q*m                            the picture as it is guessed now
        next = a*x + b*D + c*D_prev

    s undoes the scaling of samplers that work on unscaled noise (Euler), p and q hold the
    parametrisation (epsilon, v or flow), a, b and c the sampler's update; c is for samplers of
    second order. All of it is in float32 and per row, so that generations at different steps, with
    different samplers and guidance, share one batch.

    Guidance is Ho and Salimans 2022 (arXiv:2207.12598), in diffusers' form: g = 1 is no guidance.
    Distilled models were taught without (LCM, Turbo): theirs is half the work, m = m_pos.

    A model that was trained for inpainting (ExportSpec.masking) sees the mask beside the latents,
    model([s*x, mask, known], t, text). Refused: blending what is outside of a mask into `next`
    here, for other models. An ancestral sampler's fresh noise comes after this graph, and must not
    lie on what is kept; so the agent puts that back, after the noise.
    """

    dtype = torch.float32  # of the denoiser; halve() changes it

    def __init__(self, denoiser: nn.Module, *, guided: bool = True, masking: Masking = "") -> None:
        """`denoiser(sample, timestep, text, guidance)` takes `dtype` (timestep and guidance:
        float32) and gives what the model predicts."""
        super().__init__()
        self.denoiser = denoiser
        self.guided = guided
        self.masking = masking

    def forward(
        self,
        latents: Tensor,
        denoised_prev: Tensor,
        timestep: Tensor,
        text_embeddings: Tensor,
        guidance: Tensor,
        coefficients: Tensor,
        mask: Tensor | None = None,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            latents: float32 (N, C, ..., h, w), x.
            denoised_prev: as latents, D of the step before; any numbers where c is 0.
            timestep: float32 (N, 1), on the training's scale (0 to 999).
            text_embeddings: float32 (N, 2, tokens, width), negative first.
            guidance: float32 (N, 1).
            coefficients: float32 (N, 6), (s, p, q, a, b, c).
            mask: float32 (N, 1, ..., h, w), 1 where something new is wanted.
            known: as latents.

        Returns:
            next latents and D, each as latents.
        """
        ones = (1,) * (latents.ndim - 1)
        s, p, q, a, b, c = coefficients.unflatten(1, (6, *ones)).unbind(dim=1)
        sample = s * latents
        if self.masking == "concat" and mask is not None and known is not None:
            sample = torch.cat([sample, mask, known], dim=1)
        if self.guided:
            m = self._guided(sample, timestep, text_embeddings, guidance)
        else:
            m = self._predict(sample, timestep[:, 0], text_embeddings[:, 1], guidance[:, 0])
        denoised = p * latents + q * m
        following = a * latents + b * denoised + c * denoised_prev
        return following, denoised

    def _guided(self, sample: Tensor, timestep: Tensor, text: Tensor, guidance: Tensor) -> Tensor:
        # Rows 2i and 2i+1 of the doubled batch are row i's negative and positive half.
        predicted = self._predict(
            sample.unsqueeze(1).expand(-1, 2, *sample.shape[1:]).flatten(0, 1),
            timestep.expand(-1, 2).flatten(),
            text.flatten(0, 1),
            guidance.expand(-1, 2).flatten(),
        )
        negative, positive = predicted.unflatten(0, (-1, 2)).unbind(dim=1)
        scale = guidance.unflatten(1, (1,) * (sample.ndim - 1))
        return negative + scale * (positive - negative)

    def _predict(self, sample: Tensor, timestep: Tensor, text: Tensor, guidance: Tensor) -> Tensor:
        low = self.dtype
        return self.denoiser(sample.to(low), timestep, text.to(low), guidance).float()


class LatentScale(nn.Module):
    """Between the VAE's latents and the denoiser's: z = (x - mean) * scale, channel by channel."""

    mean: Tensor
    scale: Tensor

    def __init__(self, scale: float | Sequence[float], mean: float | Sequence[float], axes: int):
        """`axes`: axes of the latents beside rows and channels, 2 or 3."""
        super().__init__()
        shape = (1, -1, *(1,) * axes)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32).view(shape))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(shape))

    def inward(self, latents: Tensor) -> Tensor:
        return (latents - self.mean) * self.scale

    def outward(self, latents: Tensor) -> Tensor:
        return latents / self.scale + self.mean


class VaeDecoder(nn.Module):
    """Latents -> pixels, as diffusers' VaeImageProcessor rounds them."""

    dtype = torch.float32  # of the autoencoder; halve() changes it

    def __init__(self, vae: nn.Module, scale: LatentScale) -> None:
        super().__init__()
        self.vae = vae
        self.scale = scale

    def forward(self, latents: Tensor) -> Tensor:
        """float32 (N, C, ..., h, w) -> uint8 (N, ..., H, W, 3)."""
        return self.levels(latents).to(torch.uint8)  # last: TensorRT takes bytes from casts alone

    def levels(self, latents: Tensor) -> Tensor:
        """As forward, still float32."""
        pixels = self.vae.decode(self.scale.outward(latents).to(self.dtype), return_dict=False)[0]
        levels = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round()
        return levels.movedim(1, -1)


class VaeEncoder(nn.Module):
    """Pixels -> latents: the middle of what the encoder believes, so that it is the same always.

    diffusers' pipelines draw from around that middle instead; the spread is a few thousandths.
    """

    dtype = torch.float32  # of the autoencoder; halve() changes it

    def __init__(self, vae: nn.Module, scale: LatentScale) -> None:
        super().__init__()
        self.vae = vae
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, ..., H, W, 3) -> float32 (N, C, ..., h, w)."""
        # To floats first: TensorRT gives bytes to casts alone.
        pixels = (images.float().movedim(-1, 1) / 127.5 - 1).to(self.dtype)
        posterior = self.vae.encode(pixels, return_dict=False)[0]
        return self.scale.inward(posterior.mode().float())
