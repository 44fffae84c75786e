"""The three graphs of a checkpoint as torch modules: what is inside each exported ONNX file.

All tensors have the batch axis first; N is the number of rows, one for each picture.
"""

from __future__ import annotations

import torch
from torch import nn


class TextEncoder(nn.Module):
    """Prompt -> embeddings, with the final layer norm, as the denoiser was trained on."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """int64 (N, tokens) -> float32 (N, tokens, width)."""
        return self.encoder(input_ids)[0]


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
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        latents: torch.Tensor,
        denoised_prev: torch.Tensor,
        timestep: torch.Tensor,
        text_embeddings: torch.Tensor,
        guidance: torch.Tensor,
        coefficients: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step.

        Args:
            latents: float32 (N, C, h, w), x.
            denoised_prev: float32 (N, C, h, w), D of the step before; any numbers where c is 0.
            timestep: float32 (N, 1), on the training's scale (0 to 999).
            text_embeddings: float32 (N, 2, tokens, width), negative first.
            guidance: float32 (N, 1).
            coefficients: float32 (N, 6), (s, p, q, a, b, c).

        Returns:
            next latents and D, each float32 (N, C, h, w).
        """
        s, p, q, a, b, c = coefficients[:, :, None, None, None].unbind(dim=1)
        # Rows 2i and 2i+1 of the doubled batch are row i's negative and positive half.
        model_input = (s * latents).unsqueeze(1).expand(-1, 2, -1, -1, -1).flatten(0, 1)
        predicted = self.denoiser(
            model_input,
            timestep.expand(-1, 2).flatten(),
            encoder_hidden_states=text_embeddings.flatten(0, 1),
            return_dict=False,
        )[0]
        negative, positive = predicted.unflatten(0, (-1, 2)).unbind(dim=1)
        m = negative + guidance[:, :, None, None] * (positive - negative)
        denoised = p * latents + q * m
        return a * latents + b * denoised + c * denoised_prev, denoised


class VaeDecoder(nn.Module):
    """Latents -> pixels, as diffusers' VaeImageProcessor rounds them."""

    def __init__(self, vae: nn.Module, scaling_factor: float, shift_factor: float = 0.0) -> None:
        super().__init__()
        self.vae = vae
        self.scaling_factor = scaling_factor
        self.shift_factor = shift_factor

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """float32 (N, C, h, w) -> uint8 (N, H, W, 3)."""
        scaled = latents / self.scaling_factor + self.shift_factor
        pixels = self.vae.decode(scaled, return_dict=False)[0]
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round()
        return levels.permute(0, 2, 3, 1).to(torch.uint8)
