"""Train the ST-VAE: `accelerate launch train/stvae.py configs/stvae/small.yaml [key=value ...]`."""

import sys

from lavin import config_dir
from lavin.errors import LavinError


def main(arguments: list[str]) -> None:
    from lavin.training.config import STVAEConfig, load_config
    from lavin.training.stvae import train

    path = arguments.pop(0) if arguments and "=" not in arguments[0] else config_dir() / "stvae" / "small.yaml"
    print(train(load_config(STVAEConfig, path, arguments)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LavinError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
