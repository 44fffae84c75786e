"""Trains the tiny model: `python -m exporters.tiny.train --out checkpoints/tiny-image`.

Three stages, each skipped if its figures are already in `training.json`; a stopped denoiser goes on
from the state in `--work`. One thread a process: on a busy machine two were up to seven times
slower. Seeds are fixed; another machine's arithmetic may still give slightly other weights.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from exporters.tiny.checkpoint import read_record, save_index, save_random, write_record
from exporters.tiny.progress import Report
from exporters.tiny.train_text_encoder import picture_grammar, train_text_encoder
from exporters.tiny.train_unet import train_unet
from exporters.tiny.train_vae import train_vae


def train(out: Path, work: Path, report: Report, *, seed: int = 1) -> None:
    """Run the stages that are missing from `out`, in the order in which they need each other."""
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    stages: dict[str, Callable[[], dict[str, float]]] = {
        "text_encoder": lambda: train_text_encoder(out, report, picture_grammar(), seed=seed),
        "vae": lambda: train_vae(out, report, seed=seed),
        "unet": lambda: train_unet(out, work, report, seed=seed),
    }
    for name, run in stages.items():
        if name in read_record(out):
            report(f"{name} is finished")
            continue
        figures = run()
        write_record(out, name, figures)
        report(f"{name} {figures}")
    save_index(out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("checkpoints/tiny-image"))
    parser.add_argument(
        "--work", type=Path, default=Path("build/tiny-image"), help="where a stopped run's state is"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--random", action="store_true", help="write random weights of the same form, and stop"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.random:
        save_random(arguments.out, arguments.seed)
        return
    train(
        arguments.out,
        arguments.work,
        lambda line: print(line, flush=True),
        seed=arguments.seed,
    )


if __name__ == "__main__":
    main()
