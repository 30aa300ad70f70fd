"""Seconds that a user waits: imports, a cold `lavin infer`, a picture once the model is loaded.

python eval/startup.py [--repeats 3]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lavin import assets_dir


def seconds(command: list[str], repeats: int) -> float:
    """Median wall time of a process."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def warm_seconds(repeats: int) -> float:
    """Median time of one picture with a loaded pipeline, context included."""
    from lavin import LavinPipeline, load_pairs

    folder = assets_dir() / "examples" / "depth"
    pipeline = LavinPipeline.from_pretrained("lavin-tiny")
    pairs, times = load_pairs(folder), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        pipeline(context=pairs, query=folder / "query.png")
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="median of so many runs")
    repeats = parser.parse_args().repeats
    example = assets_dir() / "examples" / "depth"
    lavin = [sys.executable, "-m", "lavin"]
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", str(Path(folder) / "prediction.png"), "--force"]
        infer = [*lavin, "infer", "--context", str(example), "--query", str(example / "query.png"), *out]
        rows = {
            "import lavin": seconds([sys.executable, "-c", "import lavin"], repeats),
            "lavin --help": seconds([*lavin, "--help"], repeats),
            "lavin infer, cold": seconds(infer, repeats),
            "a picture, warm": warm_seconds(repeats),
        }
    for name, value in rows.items():
        print(f"{name:<20}{value:7.2f} s")


if __name__ == "__main__":
    main()
