"""Engines at full size: Stable Diffusion 1.5's structure with random weights, through ONNX in FP16
to TensorRT-RTX engines, without a GPU and without a download.

`python -m benchmarks.bench_engines` writes benchmarks/results/engines.json. Each part is exported
and built in a process of its own, whose CPU seconds and peak memory count. Nothing here tells how
fast an engine runs: that takes a GPU.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from exporters.spec import Component, ExportSpec
from exporters.tensorrt.build import build
from exporters.tensorrt.library import load
from exporters.tensorrt.profiles import profiles
from exporters.tensorrt.read_back import read_back, read_record

RESULT = Path("benchmarks/results/engines.json")
SPEC = ExportSpec("sd15", tokens=77, width=768, channels=4, downscale=8, max_batch_size=8)
SIZES = [(512, 512), (768, 768)]
CAPABILITIES = ("SM86", "SM89", "SM120")
LATENT_MULTIPLE = 8
PARTS = ("text_encoder", "denoiser", "vae_decoder")
# Goals of every part; the denoiser comes near. With room for a busier machine.
MAX_CPU_SECONDS, MAX_PEAK_GB = 60, 8


def component(part: str) -> Component:
    found: Component = getattr(SPEC, part)
    return found


def measured(stage: str, part: str, folder: Path) -> dict[str, Any]:
    """Run a stage of a part in a fresh process; its figures.

    Raises:
        subprocess.CalledProcessError: it failed; its words are on stderr.
    """
    module = ["-W", "ignore", "-m", "benchmarks.bench_engines"]
    command = [sys.executable, *module, stage, part, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def export(part: str, folder: Path) -> dict[str, Any]:
    """Write folder/part.onnx in FP16."""
    import torch

    from exporters.families.family import NORMS
    from exporters.precision import halve
    from exporters.to_onnx import export_onnx

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)  # so that no part is ever there in FP32
    module = structure(part).eval()
    torch.set_default_dtype(torch.float32)
    halve(module, [NORMS])
    path = folder / f"{part}.onnx"
    export_onnx(module, component(part), path, latent_multiple=LATENT_MULTIPLE, downscale=8)
    return {
        "parameters": sum(weights.numel() for weights in module.parameters()),
        "onnx_bytes": sum(file.stat().st_size for file in folder.glob(f"{part}.onnx*")),
    }


def structure(part: str) -> Any:
    """A part of Stable Diffusion 1.5 as its configuration files say, with random weights."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    from exporters.families.sd import TextEncoder, UNet
    from exporters.step_graph import DenoiserStep, LatentScale, VaeDecoder

    if part == "text_encoder":
        config = CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
        )
        return TextEncoder(CLIPTextModel(config))
    if part == "denoiser":
        unet = diffusers.UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        )
        return DenoiserStep(UNet(unet))
    blocks = 4
    vae = diffusers.AutoencoderKL(
        block_out_channels=[128, 256, 512, 512],
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        layers_per_block=2,
        sample_size=512,
    )
    return VaeDecoder(vae, LatentScale(0.18215, 0.0, axes=2))


def build_engine(part: str, folder: Path) -> dict[str, Any]:
    """Write folder/part.plan from folder/part.onnx, and read it back."""
    library = load("tensorrt-rtx", CAPABILITIES)
    plan = folder / f"{part}.plan"
    bounds = profiles(component(part), SIZES, downscale=SPEC.downscale)
    build(library, folder / f"{part}.onnx", plan, bounds)
    engine, depth = read_back(library, plan)
    return {
        "plan_bytes": engine.plan_bytes,
        "matrix_types": dict(engine.matrix_types),
        "read_back": depth,
        "library": f"{engine.library} {engine.version}",
        "devices": list(engine.devices),
    }


def main() -> None:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for part in PARTS:
            print(f"{part}: exporting", flush=True)
            exported = measured("export", part, Path(name))
            print(f"{part}: building", flush=True)
            built = measured("build", part, Path(name))
            read_record(Path(name) / f"{part}.plan")
            figures[part] = {"export": exported, "build": built}
    claims = [one for part in PARTS for one in claims_of(part, figures[part])]
    text = {
        "benchmark": "engines",
        "structure": "Stable Diffusion 1.5, random weights, FP16",
        "sizes": [f"{width}x{height}" for height, width in SIZES],
        "rows": SPEC.max_batch_size,
        "claims": claims,
        "figures": figures,
    }
    RESULT.write_text(json.dumps(text, indent=2) + "\n")
    for each in claims:
        print(
            f"{'ok  ' if each['holds'] else 'MISS'} {each['name']}: {each['value']} {each['unit']}"
        )


def claims_of(part: str, figures: dict[str, Any]) -> list[dict[str, Any]]:
    exported, built = figures["export"], figures["build"]
    types = built["matrix_types"]
    halves = types.get("HALF", 0) / sum(types.values())
    rows = [
        (f"{part}: engine, CPU", built["cpu_seconds"], "s", MAX_CPU_SECONDS),
        (f"{part}: engine, peak memory", built["peak_bytes"] / 1e9, "GB", MAX_PEAK_GB),
        (f"{part}: engine over ONNX", built["plan_bytes"] / exported["onnx_bytes"], "ratio", 1.1),
        (f"{part}: ONNX, CPU", exported["cpu_seconds"], "s", 2 * MAX_CPU_SECONDS),
        (f"{part}: ONNX, peak memory", exported["peak_bytes"] / 1e9, "GB", MAX_PEAK_GB),
    ]
    claims = [
        claim(name, value, unit, f"<= {goal:g}", value <= goal) for name, value, unit, goal in rows
    ]
    return [*claims, claim(f"{part}: matrix layers in FP16", halves, "share", ">= 1", halves >= 1)]


def claim(name: str, value: float, unit: str, goal: str, holds: bool) -> dict[str, Any]:
    return {
        "name": name,
        "value": float(f"{value:.3g}"),
        "unit": unit,
        "goal": goal,
        "holds": holds,
    }


def _stage(stage: str, part: str, folder: str) -> None:
    started = time.process_time()
    figures = (export if stage == "export" else build_engine)(part, Path(folder))
    figures["cpu_seconds"] = round(time.process_time() - started, 2)
    # Linux counts in KiB.
    figures["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(figures))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _stage(*sys.argv[1:])
    else:
        main()
