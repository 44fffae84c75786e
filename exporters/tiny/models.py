"""The three networks of the tiny model, as plain diffusers and transformers configurations.

Shapes: pictures float (B, 3, 64, 64) in -1..1, latents float (B, 4, 16, 16), prompts int64
(B, 32), text states float (B, 32, 64).

Three settings are not what a smaller Stable Diffusion would have, and each was needed:
- the VAE normalises in 2 groups; with 1 or 8 it did not learn at this width, and with a factor of
  8 instead of 4 it blurred the shapes;
- `addition_embed_type="text"` adds an attention pool of the text to the time embedding, which with
  `resnet_time_scale_shift="scale_shift"` reaches every block: about twice as fast to learn shapes
  as cross-attention alone;
- v-prediction with zero terminal signal: a flat background is the picture's mean, which a schedule
  that leaks it at the last step never learns to draw from noise.
"""

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PROMPT_LENGTH = 32
PICTURE_SIDE = 64
LATENT_SIDE = 16
LATENT_CHANNELS = 4
TEXT_WIDTH = 64


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers, 64 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_vae() -> AutoencoderKL:
    """Factor 4; `scaling_factor` is set after training from the latents' spread."""
    return AutoencoderKL(
        sample_size=PICTURE_SIDE,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=1.0,
    )


def build_unet() -> UNet2DConditionModel:
    """32, 64 and 96 channels at 16, 8 and 4 pixels."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 96),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


def build_scheduler(prediction: str = "v_prediction") -> DDIMScheduler:
    """1,000 training steps; the last one is pure noise."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
