"""Draw what a model does on held-out scenes, a row a task: context | query | prediction | truth.

python eval/panels.py [--model lavin-tiny] [--tasks depth,normals] [--index 0] --out panels.png
"""

import argparse
import sys

from lavin.errors import LavinError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lavin-tiny", help="a bundled model's name, or a model folder")
    parser.add_argument("--tasks", help="only these, e.g. depth,normals")
    parser.add_argument("--index", type=int, default=0, help="which of the benchmark's queries")
    parser.add_argument("--scale", type=int, default=2, help="enlarge pixels so many times")
    parser.add_argument("--out", required=True, help="PNG to write")
    parser.add_argument("--force", action="store_true", help="overwrite it")
    options = parser.parse_args()

    from PIL import Image

    from lavin.bundled import find_model
    from lavin.evaluation import scenes
    from lavin.io import check_free, write_image
    from lavin.pipeline import LavinPipeline
    from lavin.training.panels import panel

    check_free(options.out, options.force)
    folder = find_model(options.model)
    pipeline = LavinPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    settings = scenes.Settings()
    rows = scenes.task_rows(options.tasks.split(",") if options.tasks else scenes.trained_tasks(folder))
    pools = scenes.Pools(pipeline.config.sample_size, settings.pool)
    held_out = scenes.read_held_out(folder)
    drawn = (settings.pairs, settings.seed, options.index, held_out)
    episodes = [scenes.draw_episode(pools.of(row.task), row, *drawn) for row in rows]
    picture = Image.fromarray(panel(pipeline, episodes, settings.guidance_scale).permute(1, 2, 0).numpy())
    picture = picture.resize([options.scale * side for side in picture.size], Image.Resampling.NEAREST)
    print(write_image(options.out, picture, options.force))


if __name__ == "__main__":
    try:
        main()
    except LavinError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
