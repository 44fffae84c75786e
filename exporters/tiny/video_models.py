"""The denoiser of tiny-video; every other part is built as for tiny-image (`models`).

A clip is T = 8 frames of 64x64 pixels. tiny-image's autoencoder makes each frame a latent of
(4, 16, 16), and the frames lie behind one another in the channels: (B, T*4, 16, 16), channel
4*t + c. So the denoiser is an ordinary UNet2DConditionModel, and a whole clip costs about what one
picture does. Layouts with an axis for time (UNet3D, AnimateDiff's, Latte's) cost 13 to 28 times as
much a clip when they were tried, and AnimateDiff's did not learn direction.

The top level has no attention: text reaches it by the time embedding (`addition_embed_type`), and
a training clip takes 11 CPU ms instead of 20.

The denoiser predicts x0, where tiny-image's predicts velocity. Velocity holds the noise, which here
has 32 independent channels that 64 cannot carry through beside the picture; x0 is nearly told by
the text (compare arXiv:2511.13720).
"""

from diffusers import DDIMScheduler, UNet2DConditionModel

from exporters.tiny.models import LATENT_CHANNELS, LATENT_SIDE, TEXT_WIDTH, build_scheduler
from exporters.tiny.video_scenes import FRAMES

CLIP_CHANNELS = FRAMES * LATENT_CHANNELS


def build_video_unet() -> UNet2DConditionModel:
    """64, 96 and 128 channels at 16, 8 and 4 pixels."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=CLIP_CHANNELS,
        out_channels=CLIP_CHANNELS,
        block_out_channels=(64, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


def build_video_scheduler() -> DDIMScheduler:
    """tiny-image's schedule, for predictions of x0."""
    return build_scheduler("sample")
