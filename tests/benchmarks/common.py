"What the benchmarks share: their options, the same network and images for all, interleaved timing, one table."
import argparse, json, os, shutil, time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from sslnb import data
from sslnb.core import best_device, replacing, reports
from sslnb.runs import processor_name, provenance
from sslnb.train import TrainConfig, Training, resolve


def options(doc: str, batch: int = 256, rounds: int = 10) -> argparse.ArgumentParser:
    "The options that every benchmark has."
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=best_device(), help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=batch, help="images per batch (two views of each)")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds in which the contenders take turns")
    parser.add_argument("--save", action="store_true", help="also write reports/benchmarks/NAME-DEVICE.json")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the same JSON to FILE")
    return parser


def images() -> data.Images:
    "Real CIFAR-10 where it is there, else the drawn shapes."
    try: return data.load("cifar10")
    except data.DataError: return data.load("shapes")


def simclr(encoder: str, batch: int, device: torch.device, **settings) -> Training:
    "SimCLR in training with the library's own recipe, precision (bf16 where the hardware has it) and layout."
    config = TrainConfig(dataset=images().name.split("/")[0], method="simclr", encoder=encoder, steps=100_000,
                         batch_size=batch, lr=1e-3, options={"hidden": 256, "out": 128}, **settings)
    return Training(resolve(config, device), device)


def flops(training: Training, views: torch.Tensor) -> int:
    "Floating-point operations of one update, forward and backward."
    with FlopCounterMode(display=False) as counter: training.update(views, None)
    return counter.get_total_flops()


def matrix_rate(device: torch.device, precision: str) -> float:
    "Operations per second of a matrix product in `precision`: the median of ten, 8192³ on a GPU, 1024³ on a CPU."
    n, dtype = 8192 if device.type == "cuda" else 1024, {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    def work():
        for _ in range(10): a @ b
        return 10
    return 2 * n**3 / median(take_turns({"matrices": work}, 10, device)["matrices"])


def can_compile() -> bool:
    "Is there a compiler for what torch.compile writes? Says so where there is none."
    found = any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++"))))
    if not found: print("torch.compile is left out: it needs a C++ compiler (g++ or clang++), and this machine has none")
    return found


def seconds(work: Callable[[], int], device: torch.device) -> float:
    "Seconds per unit of `work`, which returns how many units it did."
    start = time.perf_counter()
    units = work()
    if device.type == "cuda": torch.cuda.synchronize()
    return (time.perf_counter() - start) / units


def take_turns(contenders: dict[str, Callable[[], int]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    "Seconds per unit of every contender, `rounds` times, after one call each to warm up; the order turns every round."
    for work in contenders.values(): seconds(work, device)
    names, found = list(contenders), {name: [] for name in contenders}
    for r in range(rounds):
        turn = r % len(names)
        for name in names[turn:] + names[:turn]: found[name].append(seconds(contenders[name], device))
    return found


def ms(times: list[float]) -> str:
    "Median (min–max) in milliseconds."
    return f"{median(times) * 1e3:.1f} ({min(times) * 1e3:.1f}–{max(times) * 1e3:.1f})"


def machine() -> str:
    "The processor and how many cores of it there are."
    return f"{processor_name()}, {os.cpu_count()} cores"


def show(name: str, rows: list[dict], args: argparse.Namespace, **more):
    "Print the rows as a table with where it comes from; write them as JSON, too, where --save asks for it."
    about = provenance(args.device) | {"machine": machine(), "images": images().name, "batch": args.batch} | more
    print(f"\n**{name}**: " + "; ".join(f"{k} {v}" for k, v in about.items()) + "\n")
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows: print("| " + " | ".join(map(str, row.values())) + " |")
    named = reports() / "benchmarks" / f"{name}-{args.device.type}.json"
    for file in [named] * args.save + [args.out] * bool(args.out):
        with replacing(file) as part:
            part.write_text(json.dumps({"about": about, "rows": rows}, indent=1, ensure_ascii=False) + "\n", "utf-8")
