"""The folder of a finished model: diffusers' layout, fp16 safetensors, a record of its training."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from exporters.tiny.models import build_scheduler, build_text_encoder, build_unet, build_vae
from exporters.tiny.tokenizer import build_tokenizer

RECORD = "training.json"


def save_index(out: Path) -> None:
    """Write `out/scheduler` and `out/model_index.json`: what makes the parts one pipeline."""
    build_scheduler().save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_random(out: Path, seed: int = 0) -> None:
    """Write a checkpoint of the same form with random weights, for whoever needs only the form."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(out / "tokenizer")
    build_text_encoder(tokenizer).half().save_pretrained(out / "text_encoder")
    build_vae().half().save_pretrained(out / "vae")
    build_unet().half().save_pretrained(out / "unet")
    save_index(out)


def load_text(folder: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """The tokenizer and the encoder in float32, frozen."""
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    encoder.eval().requires_grad_(False)
    return CLIPTokenizer.from_pretrained(folder / "tokenizer"), encoder


def load_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder in float32, frozen."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False)


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """All parts in float32, computed from the fp16 weights of the folder."""
    tokenizer, encoder = load_text(folder)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    pipeline = StableDiffusionPipeline(
        vae=load_vae(folder),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=diffusers.DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read_record(folder: Path) -> dict[str, Any]:
    """Figures of the stages finished so far, by the stage's name."""
    path = folder / RECORD
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return record


def write_record(folder: Path, stage: str, figures: dict[str, float]) -> None:
    """Add one stage's figures."""
    record = read_record(folder) | {stage: figures}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
