"""Where the limit is on a CPU: the rate of a matrix product, of a large convolution, and of whole steps of SimCLR (the network alone, its
views ready), on one thread and on two; how many views a second two processes of one thread make side by side, and one process of two
threads; and of what a step consists."""
import argparse, os, subprocess, sys, time
from functools import partial
from statistics import median

from bench_pipeline import first_views, repeat
from common import flops, ms, options, show, simclr, take_turns
import torch
import torch.nn.functional as F

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
GROUPS = {  # what a step consists of -> parts of the names of torch's operations
    "convolutions": ("convolution",), "matrix products": ("::mm", "::addmm", "::bmm"), "batch norm": ("batch_norm",),
    "ReLU": ("clamp_min", "threshold_backward"), "copies": ("::copy_", "::cat"), "loss": ("softmax", "nll_loss", "logsumexp", "vector_norm")}


def matrices(dtype, n: int = 1024) -> tuple[int, list]:
    "Operations, and the two factors, of a square product."
    return 2 * n**3, [torch.randn(n, n, dtype=dtype) for _ in range(2)]


def convolution(dtype, images: int = 128, channels: int = 128, side: int = 16) -> tuple[int, list]:
    "Operations, input and kernel of a 3×3 convolution as the middle of a ResNet has them, channels last."
    x = torch.randn(images, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return 2 * images * side**2 * channels**2 * 9, [x, kernel]


def works(args, precision: str) -> tuple[dict, dict]:
    "What is timed -> operations of one; and (threads, what) -> work."
    dtype, found = DTYPES[precision], {}
    for what, (total, factors), fn in (("matrix product", matrices(dtype), torch.mm),
                                       ("convolution", convolution(dtype), partial(F.conv2d, padding=1))):
        found[what] = total, partial(repeat, partial(fn, *factors), 10)
    for encoder in args.encoder:
        training = simclr(encoder, args.batch, args.device)
        ready = first_views(training, args.batch)
        found[encoder] = flops(training, ready), partial(repeat, partial(training.update, ready, None), args.steps)
    def on(threads, work):
        torch.set_num_threads(threads)
        return work()
    totals = {what: total for what, (total, _) in found.items()}
    return totals, {(n, what): partial(on, n, work) for n in (1, 2) for what, (_, work) in found.items()}


def row(threads: int, what: str, times: list[float], total: int, rate: float, batch: int) -> dict:
    speed, network = total / median(times), what not in ("matrix product", "convolution")
    return {"threads": threads, "what": what, "ms (min–max)": ms(times), "GFLOP/s": f"{speed / 1e9:,.0f}",
            "of the matrix rate": f"{speed / rate:.0%}", "views/s": f"{2 * batch / median(times):,.0f}" if network else ""}


def child(args):
    "Steps of one process: says when it is ready, begins when it is told, and tells the views a second."
    training = simclr(args.encoder[0], args.batch, args.device)
    training.take_step()
    print("ready", flush=True)
    sys.stdin.readline()
    steps, start = 0, time.perf_counter()
    while time.perf_counter() < start + args.seconds: steps += repeat(training.take_step, 1)
    print(2 * args.batch * steps / (time.perf_counter() - start), flush=True)


def together(threads: list[int], args) -> float:
    "Views a second of processes that work at once, with so many threads each."
    command = [sys.executable, __file__, "--child", "--encoder", args.encoder[0], "--batch", str(args.batch),
               "--seconds", str(args.seconds), "--device", "cpu"]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
                                env=os.environ | {"OMP_NUM_THREADS": str(n)}) for n in threads]
    for process in started: process.stdout.readline()
    for process in started: print(file=process.stdin, flush=True)
    return sum(float(process.communicate()[0]) for process in started)


def shares(args) -> dict[str, str]:
    "Of one thread's time in steps of the first encoder, its views ready: the share of each kind of operation."
    training = simclr(args.encoder[0], args.batch, args.device)
    ready = first_views(training, args.batch)
    torch.set_num_threads(1)
    training.update(ready, None)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        repeat(partial(training.update, ready, None), args.steps)
    events = profile.key_averages()
    total = sum(e.self_cpu_time_total for e in events)
    found = {group: sum(e.self_cpu_time_total for e in events if any(name in e.key for name in names))
             for group, names in GROUPS.items()}
    found["optimiser"] = sum(e.cpu_time_total for e in events if e.key.startswith("Optimizer.step"))
    found["all else"] = total - sum(found.values())
    return {f"{group}, of a step of {args.encoder[0]}": f"{t / total:.0%}" for group, t in found.items()}


def main():
    parser = options(__doc__, rounds=5)
    parser.add_argument("--encoder", nargs="+", default=["small", "resnet18", "vit_tiny"])
    parser.add_argument("--steps", type=int, default=2, help="steps per turn")
    parser.add_argument("--seconds", type=float, default=5, help="that processes work side by side")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child: return child(args)
    precision = simclr(args.encoder[0], args.batch, args.device).config.precision
    totals, timed = works(args, precision)
    times = take_turns(timed, args.rounds, args.device)
    rates = {n: totals["matrix product"] / median(times[n, "matrix product"]) for n in (1, 2)}
    rows = [row(n, what, t, totals[what], rates[n], args.batch) for (n, what), t in times.items()]
    side = [(together([1, 1], args), together([2], args)) for _ in range(args.rounds)]
    two, one = (median(s) for s in zip(*side))
    show("limits", rows, args, precision=precision, rounds=args.rounds, steps=args.steps, **shares(args),
         **{f"whole steps of {args.encoder[0]}, views/s": f"two processes of one thread {two:,.0f}, one of two threads {one:,.0f}"})


if __name__ == "__main__": main()
