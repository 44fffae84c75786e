"""INT8 against single precision on tiny-image, side by side in one run.

`python -m benchmarks.bench_int8` writes benchmarks/results/int8.json. Speed is a ratio of CPU
seconds on one thread, the two models taking turns, so that a busy machine slows both; sizes are
those of the files, of which the source's store halves.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chain import Chain, Pictures, onnx_path
from exporters.gate import INT8_GATE
from exporters.int8 import Feed, Recorder, Session, quantize
from exporters.int8_gate import Likeness, compare, require
from exporters.measure import open_session
from exporters.tiny.checker import measure
from exporters.tiny.scenes import Scene, all_scenes, prompt_of

REPOSITORY, CARD = Path("triton_repo"), "tiny_image.toml"
RESULT = Path("benchmarks/results/int8.json")
STEPS, GUIDANCE, PIXELS = 20, 1.5, 64
BATCH = 8  # prompts drawn together
CALIBRATED, DRAWN = 16, 120  # prompts; disjoint
ROWS, ROUNDS = (1, 4, 8, 16), 15


def main() -> None:
    chain = Chain(REPOSITORY, CARD)
    picked = list(np.random.default_rng(0).permutation(np.array(list(all_scenes()), object)))
    calibration, drawn = picked[:CALIBRATED], picked[CALIBRATED : CALIBRATED + DRAWN]
    with tempfile.TemporaryDirectory() as name:
        denoiser_feeds, decoder_feeds = record(chain, calibration, seed=1)
        seen_feeds = record(chain, drawn[:BATCH], seed=2)
        parts = {
            "denoiser": (chain.card.components.denoiser, denoiser_feeds, seen_feeds[0]),
            "decoder": (chain.card.components.vae_decoder, decoder_feeds, seen_feeds[1]),
        }
        claims: list[dict[str, Any]] = []
        quantized = Chain(REPOSITORY, CARD)
        for part, (component, feeds, others) in parts.items():
            source, target = onnx_path(REPOSITORY, component), Path(name) / f"{part}.onnx"
            quantize(source, target, feeds)
            found = compare(source, target, others)
            require(found)
            claims += likenesses(part, found)
            claims.append(
                claim(
                    f"{part}: file, INT8 over halves",
                    target.stat().st_size / source.stat().st_size,
                    "ratio",
                    "<=",
                    0.65,
                )
            )
            sessions = open_session(source), open_session(target)
            claims += list(speeds(part, sessions, others[len(others) // 2]))
        quantized.denoiser = open_session(Path(name) / "denoiser.onnx")
        quantized.vae_decoder = open_session(Path(name) / "decoder.onnx")
        claims += list(pictures(chain, quantized, drawn))
    text = {"benchmark": "int8", "model": chain.card.name, "version": chain.card.version}
    RESULT.write_text(json.dumps(text | {"claims": claims}, indent=2) + "\n")
    for each in claims:
        print(
            f"{'ok  ' if each['holds'] else 'MISS'} {each['name']}: {each['value']} {each['unit']}"
        )


def record(chain: Chain, scenes: Sequence[Scene], seed: int) -> tuple[list[Feed], list[Feed]]:
    """What the denoiser and the decoder meet while the scenes are drawn."""
    plain = chain.denoiser, chain.vae_decoder
    denoiser, decoder = Recorder(plain[0]), Recorder(plain[1])
    chain.denoiser, chain.vae_decoder = denoiser, decoder
    for _ in batches(chain, scenes, seed):
        pass
    chain.denoiser, chain.vae_decoder = plain
    return denoiser.feeds, decoder.feeds


def batches(chain: Chain, scenes: Sequence[Scene], seed: int) -> Iterator[Pictures]:
    for start in range(0, len(scenes), BATCH):
        prompts = [prompt_of(scene) for scene in scenes[start : start + BATCH]]
        yield chain.draw(prompts, seed=seed + start, steps=STEPS, guidance=GUIDANCE, pixels=PIXELS)


def likenesses(part: str, found: Sequence[Likeness]) -> Iterator[dict[str, Any]]:
    for each in found:
        if each.psnr_db is not None:
            name, value, goal = (
                f"{part}: PSNR of {each.output}, worst",
                each.psnr_db,
                INT8_GATE.min_psnr_db,
            )
            yield claim(name, value, "dB", ">=", goal)
        elif each.relative_l2 is not None:
            name = f"{part}: relative L2 of {each.output}, worst row"
            yield claim(name, each.relative_l2, "share", "<=", INT8_GATE.max_relative_l2)


def speeds(part: str, sessions: tuple[Session, Session], feed: Feed) -> Iterator[dict[str, Any]]:
    """How many times as fast the second is, by rows."""
    for rows in ROWS:
        batch = {name: np.concatenate([array] * 2)[:rows] for name, array in feed.items()}
        spent: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for session, seconds in zip(sessions, spent, strict=True):
                started = time.thread_time()
                session.run(None, batch)
                seconds.append(time.thread_time() - started)
        single, quantized = map(statistics.median, spent)
        goal = 1.0 if rows < 8 else 1.2
        yield claim(
            f"{part}: speed at {rows} rows over FP32", single / quantized, "times", ">=", goal
        )


def pictures(chain: Chain, quantized: Chain, scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    """Whole pictures from the same noise, and whether they show what was asked."""
    worst, right = np.inf, [0, 0]
    expected = batches(chain, scenes, seed=100)
    got = batches(quantized, scenes, seed=100)
    asked = iter(scenes)
    for pair in zip(expected, got, strict=True):
        for single, other in zip(*pair, strict=True):
            error = np.mean((single.astype(float) - other) ** 2)
            worst = min(worst, float(10 * np.log10(255**2 / max(error, 1e-9))))
            scene = next(asked)
            right[0] += measure(single) == scene
            right[1] += measure(other) == scene
    shares = [count / len(scenes) for count in right]
    yield claim("pictures: PSNR against FP32, worst", worst, "dB", ">=", INT8_GATE.min_psnr_db)
    yield claim("pictures: all as prompted, FP32", shares[0], "share", ">=", 0.99)
    yield claim("pictures: all as prompted, INT8", shares[1], "share", ">=", 0.99)


def claim(name: str, value: float, unit: str, sign: str, goal: float) -> dict[str, Any]:
    holds = value >= goal if sign == ">=" else value <= goal
    return {
        "name": name,
        "value": float(f"{value:.4g}"),
        "unit": unit,
        "goal": f"{sign} {goal:g}",
        "holds": bool(holds),
    }


if __name__ == "__main__":
    main()
