"""How long one waits before anything begins: fresh processes that import and list; and `load` of a set that was verified before, beside
reading the bytes of its decoded images, and beside asking the system for size and time of each of its files."""
import os, subprocess, sys
from functools import partial
from pathlib import Path
from statistics import median

from common import images, ms, options, show, take_turns
import numpy as np

from sslnb.core import ROOT, folder
from sslnb.data import cache_folder, load

PROCESSES = {"python -c pass": ["-c", "pass"], "import torch": ["-c", "import torch"], "import sslnb": ["-c", "import sslnb"],
             "import sslnb.train": ["-c", "import sslnb.train"], "sslnb list": ["-m", "sslnb", "list"]}
GOALS = {"import sslnb": "< 1,500", "sslnb list": "< 2,500", "load, train": "< 100", "load, test": "< 100"}
SPLITS = "train", "test"


def process(arguments: list[str]) -> int:
    "One fresh Python."
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return 1


def loaded(name: str, split: str) -> int:
    load(name, split)
    return 1


def read(name: str, split: str) -> int:
    "The decoded images, copied into memory."
    np.load(cache_folder() / f"{name}-{split}" / "pixels.npy")
    return 1


def asked(paths: list[str]) -> int:
    "Size and time of each file."
    for path in paths: os.stat(path)
    return 1


def files(name: str, split: str) -> list[str]:
    "The files of a split that lies there as a folder for each class; none for a set that is drawn or one archive."
    return [str(p) for p in Path(folder("SSLNB_DATA", "data"), name, split).rglob("*.*")]


def works(name: str) -> dict:
    "What is timed -> work."
    found = {what: partial(process, arguments) for what, arguments in PROCESSES.items()}
    for split in SPLITS:
        paths = files(name, split)
        found |= {f"load, {split}": partial(loaded, name, split), f"reading the pixels, {split}": partial(read, name, split)}
        if paths: found |= {f"a look at each of {len(paths):,} files, {split}": partial(asked, paths)}
    return found


def row(what: str, times: list[float], all_times: dict) -> dict:
    of = "import torch" if what in PROCESSES else f"reading the pixels, {what.split()[-1]}"
    return {"what": what, "ms (min–max)": ms(times), "times": f"{median(times) / median(all_times[of]):.2f}", "as long as": of,
            "goal, ms": GOALS.get(what, "")}


def main():
    parser = options(__doc__, rounds=7)
    args = parser.parse_args()
    times = take_turns(works(images().name.split("/")[0]), args.rounds, args.device)
    show("start", [row(what, t, times) for what, t in times.items()], args, rounds=args.rounds)


if __name__ == "__main__": main()
