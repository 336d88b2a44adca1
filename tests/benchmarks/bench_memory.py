"""Memory as glibc gives it, and kept for the next time (`core.reuse_memory`): updates of networks in training, and features of images
brought to 224 pixels. Each turn is a process of its own, since what is set for one stays set."""
import resource, subprocess, sys
from pathlib import Path
from statistics import median

import torch
from common import images, ms, options, seconds, show, simclr

from sslnb.models import encoder, features

TURN = """
import sys
from sslnb import core
if not {kept}: core.reuse_memory = lambda: None  # before networks are imported
sys.path.insert(0, {folder!r})
from bench_memory import work
print(*work({name!r}, {batch}, {device!r}, {updates}))
"""


def work(name: str, batch: int, device: str, updates: int) -> tuple[float, float]:
    """Seconds of an update of SimCLR with the encoder `name`; where that brings images to 224 pixels, of ten images' features. And the
    most memory that the process had, in MiB."""
    at = torch.device(device)
    if name.endswith("@224"):
        net, some = encoder(name, images()).to(at), images()[:10 * updates]
        def several(): return features(net, some) is not None and updates
    else:
        training = simclr(name, batch, at)
        def several():
            for _ in range(updates): training.take_step()
            return updates
    several()
    return seconds(several, at), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def turn(**about) -> tuple[float, ...]:
    "`work` in a new process."
    code = TURN.format(folder=str(Path(__file__).parent), **about)
    said = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    return tuple(map(float, said.split()))


def main():
    parser = options(__doc__, rounds=5)
    parser.add_argument("--encoders", nargs="+", default=["tiny", "small", "resnet18", "resnet18@224"])
    parser.add_argument("--updates", type=int, default=10, help="in each turn, and as many before")
    args, rows, kinds = parser.parse_args(), [], {"as glibc gives it": False, "kept": True}
    for name in args.encoders:
        found = {kind: [] for kind in kinds}
        for _ in range(args.rounds):
            for kind, kept in kinds.items():
                found[kind].append(turn(kept=kept, name=name, batch=args.batch, device=str(args.device), updates=args.updates))
        times, most = ({kind: [f[i] for f in found[kind]] for kind in kinds} for i in (0, 1))
        usual = median(times["as glibc gives it"])
        rows += [{"encoder": name, "memory": kind, "ms/update (min–max)": ms(times[kind]),
                  "faster by": f"{usual / median(times[kind]):.2f}", "MiB at most": f"{max(most[kind]):,.0f}"} for kind in kinds]
    show("memory", rows, args, rounds=args.rounds)


if __name__ == "__main__": main()
