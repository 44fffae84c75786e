"""The folder of tiny-video: diffusers' layout, to be opened by `TinyVideoPipeline`."""

import json
from pathlib import Path

import diffusers
import torch

from exporters.tiny.checkpoint import load_text, load_vae
from exporters.tiny.models import build_text_encoder, build_vae
from exporters.tiny.tokenizer import build_tokenizer
from exporters.tiny.video_models import build_video_scheduler, build_video_unet
from exporters.tiny.video_pipeline import TinyVideoPipeline
from exporters.tiny.video_scenes import FRAMES, WORDS

FRAMES_PER_SECOND = 8


def save_video_index(out: Path) -> None:
    """Write `out/scheduler` and `out/model_index.json`: what makes the parts one pipeline."""
    build_video_scheduler().save_pretrained(out / "scheduler")
    index = {
        "_class_name": "TinyVideoPipeline",
        "_diffusers_version": diffusers.__version__,
        "frames": FRAMES,
        "frames_per_second": FRAMES_PER_SECOND,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_random_video(out: Path, seed: int = 0) -> None:
    """Write a checkpoint of the same form with random weights, for whoever needs only the form."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(WORDS)
    tokenizer.save_pretrained(out / "tokenizer")
    build_text_encoder(tokenizer).half().save_pretrained(out / "text_encoder")
    build_vae().half().save_pretrained(out / "vae")
    build_video_unet().half().save_pretrained(out / "unet")
    save_video_index(out)


def load_video_pipeline(folder: Path) -> TinyVideoPipeline:
    """All parts in float32, computed from the fp16 weights of the folder."""
    index = json.loads((folder / "model_index.json").read_text())
    tokenizer, encoder = load_text(folder)
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        folder / "unet", torch_dtype=torch.float32
    )
    pipeline = TinyVideoPipeline(
        vae=load_vae(folder),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=diffusers.DDIMScheduler.from_pretrained(folder / "scheduler"),
        frames=index["frames"],
        frames_per_second=index["frames_per_second"],
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
