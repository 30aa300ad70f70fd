"""Train the J-DiT: `accelerate launch train/pretrain.py configs/pretrain/small.yaml [key=value ...]`.

--overfit-one-batch      the same as run.overfit_batch=true: a healthy set-up drives the loss to near zero
--dry-run                print what the run needs and exit; with --devices N, --mfu SHARE, --tflops RATE of a device
"""

import argparse
import os
import sys
import time

from lavin import config_dir
from lavin.errors import LavinError


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Train the J-DiT.")
    parser.add_argument("config", nargs="?", help="YAML file (default: configs/pretrain/small.yaml)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values in place of the file's")
    parser.add_argument("--overfit-one-batch", action="store_true", help="train on the first batch for ever")
    parser.add_argument("--dry-run", action="store_true", help="print memory, arithmetic and time, and exit")
    parser.add_argument("--devices", type=int, help="of the dry run (default: as many as were launched)")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the devices' rate that is reached")
    parser.add_argument("--tflops", type=float, default=989.0, help="bf16 rate of a device, TFLOP/s (H100: 989)")
    given = parser.parse_intermixed_args(arguments)
    overrides = given.overrides + ["run.overfit_batch=true"] * given.overfit_one_batch
    if given.config and "=" in given.config:
        overrides, given.config = [given.config, *overrides], None

    from lavin.training.config import PretrainConfig, load_config

    config = load_config(PretrainConfig, given.config or config_dir() / "pretrain" / "small.yaml", overrides)
    if given.dry_run:
        from lavin.training.plan import plan

        devices = given.devices or int(os.environ.get("WORLD_SIZE", 1))
        if int(os.environ.get("RANK", 0)) == 0:
            print(plan(config, devices, given.mfu, given.tflops))
        return

    from lavin.training.pretrain import train

    folder = train(config)
    if int(os.environ.get("RANK", 0)) == 0:
        print(folder)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LavinError as error:
        if int(os.environ.get("RANK", 0)) > 0:
            time.sleep(2)  # the first rank says it; if it has the same to say, its exit ends this one
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
