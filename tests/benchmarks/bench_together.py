"""Two trainings of one study: one after the other with all threads, and side by side with one thread each (`train.train_all`), on a
quiet machine and beside a busy process. Processes are started, and runs are written, in both."""
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

from bench_threads import busy
from common import images, ms, options, show, take_turns

from sslnb import train
from sslnb.train import TrainConfig, resolve, train_all


def contenders(jobs, device) -> dict:
    "Each trains all of `jobs` in a new store; their units are steps."
    def work(at_once=None):
        with tempfile.TemporaryDirectory() as folder, patch.object(train, "_at_once", at_once or train._at_once):
            train_all(jobs, device, store=Path(folder))
        return sum(job.config.steps for job in jobs)
    return {"one after the other": lambda: work(lambda *_: 1), "side by side": work}


def main():
    parser = options(__doc__, rounds=3)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--steps", type=int, default=30, help="of each training")
    args = parser.parse_args()
    config = TrainConfig(dataset=images().name.split("/")[0], method="simclr", encoder=args.encoder, steps=args.steps,
                         batch_size=args.batch, lr=1e-3, options={"hidden": 256, "out": 128})
    jobs, rows = [resolve(replace(config, seed=seed), args.device) for seed in (0, 1)], []
    for beside, n in (("nothing", 0), ("one busy process", 1)):
        with busy(n): found = take_turns(contenders(jobs, args.device), args.rounds, args.device)
        usual = median(found["one after the other"])
        rows += [{"beside": beside, "trainings": name, "ms/step (min–max)": ms(times),
                  "faster by": f"{usual / median(times):.2f}"} for name, times in found.items()]
    show("together", rows, args, encoder=args.encoder, steps=args.steps, rounds=args.rounds)


if __name__ == "__main__": main()
