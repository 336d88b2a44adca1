"How waiting threads share a machine: SimCLR steps alone and beside a busy process, for OpenMP's settings."

import json, os, subprocess, sys, time
from contextlib import contextmanager

from common import ms, options, seconds, show, simclr

NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SETTINGS = [dict(zip(NAMES, values)) for values in (
    ("1", None, None), ("2", "passive", None), ("2", None, None), ("2", "active", None), ("2", None, "10000"))]
OTHERS = {"alone": 0, "beside one busy process": 1, "beside one per core": os.cpu_count()}


@contextmanager
def busy(n: int):
    "`n` other processes that never rest."
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try: yield
    finally:
        for other in others: other.kill()


def steps(training, limit: float) -> list[float]:
    "Seconds of each step for about `limit` seconds; three steps at least."
    def step():
        training.take_step()
        return 1
    found, end = [], time.perf_counter() + limit
    while time.perf_counter() < end or len(found) < 3: found.append(seconds(step, training.device))
    return found


def measure(args) -> dict:
    "What one process finds, by how many others are busy."
    training, found = simclr(args.encoder, args.batch, args.device), {}
    steps(training, 1)
    for about, n in OTHERS.items():
        with busy(n): found[about] = steps(training, args.seconds)
    return found


def child(setting: dict) -> dict:
    "A process with its own setting, which must be there before torch is imported."
    env = {k: v for k, v in os.environ.items() if k not in NAMES} | {k: v for k, v in setting.items() if v}
    done = subprocess.run([sys.executable, *sys.argv, "--child"], stdout=subprocess.PIPE, check=True, env=env)
    return json.loads(done.stdout)


def row(setting: dict, found: list[dict]) -> dict:
    threads, policy, spins = (setting[n] or "unset" for n in NAMES)
    times = {about: ms(sum((f[about] for f in found), [])) for about in OTHERS}
    return {"threads": threads, "OMP_WAIT_POLICY": policy, "GOMP_SPINCOUNT": spins} | times


def main():
    parser = options(__doc__, rounds=2)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--seconds", type=float, default=4, help="per cell and round")
    parser.add_argument("--child", action="store_true", help="one measurement, as JSON: this script calls itself")
    args = parser.parse_args()
    if args.child: return print(json.dumps(measure(args)))
    found = [[child(s) for s in SETTINGS] for _ in range(args.rounds)]
    show("threads", [row(s, list(f)) for s, f in zip(SETTINGS, zip(*found))], args, encoder=args.encoder,
         cells="ms/step, median (min–max)")


if __name__ == "__main__": main()
