"""Train the J-DiT: `accelerate launch train/pretrain.py configs/pretrain/small.yaml [key=value ...]`."""

import sys

from lavin import config_dir
from lavin.errors import LavinError


def main(arguments: list[str]) -> None:
    from lavin.training.config import PretrainConfig, load_config
    from lavin.training.pretrain import train

    path = arguments.pop(0) if arguments and "=" not in arguments[0] else config_dir() / "pretrain" / "small.yaml"
    print(train(load_config(PretrainConfig, path, arguments)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LavinError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
