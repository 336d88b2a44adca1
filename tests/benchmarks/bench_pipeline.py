"""SimCLR end to end, its network alone and its random views alone, with and without torch.compile; each as a share of the rate
at which the device multiplies matrices. Where lightly is installed, its transform in a DataLoader feeds the same network."""
import os
from functools import partial
from statistics import median

from common import can_compile, flops, images, matrix_rate, ms, options, show, simclr, take_turns
import torch
from torch.utils.data import DataLoader, Dataset

from sslnb.core import rng
from sslnb.methods import Batch

MODES = "none", "default", "reduce-overhead"
WHOLE, ALONE, VIEWS, LIGHTLY = "end to end", "network alone", "views alone", "lightly + DataLoader"


class Pictures(Dataset):
    "The first `n` images (repeated where there are fewer), as lightly sees them: two views of one PIL image at a time."
    def __init__(self, n: int):
        from lightly.transforms import SimCLRTransform
        self.n, self.pixels = n, images().pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = SimCLRTransform(input_size=self.pixels.shape[1], cj_strength=0.5, min_scale=0.2,
                                         gaussian_blur=0.0, normalize=None)  # the encoder normalises

    def __len__(self): return self.n
    def __getitem__(self, i):
        from PIL import Image
        return self.transform(Image.fromarray(self.pixels[i % len(self.pixels)]))


def repeat(step, steps: int) -> int:
    for _ in range(steps): step()
    return steps


def first_views(training, n: int) -> torch.Tensor:
    "Views of the first `n` images, as `Training.take_step` makes them."
    some = training.images[:n].to(training.device)
    return training.method.views(Batch(some.pixels, some.labels, torch.arange(n)), training.config.augment,
                                 rng("views", device=training.device))


def parts(training, args) -> dict:
    "What is timed -> work: `steps` whole steps, or as often one half of a step."
    ready = first_views(training, args.batch)
    return {WHOLE: partial(repeat, training.take_step, args.steps),
            ALONE: partial(repeat, lambda: training.update(ready, None), args.steps),
            VIEWS: partial(repeat, lambda: first_views(training, args.batch), args.steps)}


def lightly(training, args) -> dict:
    "The same for lightly; nothing where it is not installed."
    try: pictures = Pictures(args.steps * args.batch)
    except ImportError: print("lightly is not installed: left out"); return {}
    # every turn is one whole epoch, so that no worker is busy in another contender's turn
    loader = DataLoader(pictures, args.batch, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0,
                        pin_memory=args.device.type == "cuda")
    def work(training):
        for views in loader: training.update(torch.cat(views).to(args.device, non_blocking=True), None)
        return args.steps
    plain = simclr(training.config.encoder, args.batch, args.device, precision="fp32")
    return {LIGHTLY: partial(work, training), f"{LIGHTLY}, fp32": partial(work, plain)}


def rows(encoder: str, modes: list[str], rate: float, args) -> list[dict]:
    "All that is timed with one encoder, taking turns."
    trainings = {mode: simclr(encoder, args.batch, args.device, compile=mode) for mode in modes}
    works = {(mode, what): work for mode, t in trainings.items() for what, work in parts(t, args).items()}
    plain = trainings["none"]
    works |= {("none", what): work for what, work in lightly(plain, args).items()}
    total = flops(plain, first_views(plain, args.batch))
    times = take_turns(works, args.rounds, args.device)
    return [row(encoder, mode, what, t, times["none", WHOLE], total, rate, args) for (mode, what), t in times.items()]


def row(encoder, mode, what, times, whole, total, rate, args) -> dict:
    speed = 0 if what == VIEWS else total / median(times)
    goals = {ALONE: "≥ 0.95", LIGHTLY: "≥ 3" if encoder == "small" else "≥ 2"} if mode == "none" else {}
    return {"encoder": encoder, "compile": mode, "timed": what, "ms/step (min–max)": ms(times),
            "images/s": f"{args.batch / median(times):,.0f}", "end to end, not compiled, is faster by": f"{median(times) / median(whole):.2f}",
            "goal": goals.get(what, ""), "TFLOP/s": f"{speed / 1e12:.3g}" if speed else "",
            "of the matrix rate": f"{speed / rate:.1%}" if speed else ""}


def main():
    parser = options(__doc__, rounds=3)
    parser.add_argument("--encoder", nargs="+", help="default: small; on a GPU resnet18, too")
    parser.add_argument("--compile", nargs="+", choices=MODES, default=MODES, help="none is always measured")
    parser.add_argument("--steps", type=int, default=8, help="steps per turn")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the DataLoader")
    args = parser.parse_args()
    on_gpu = args.device.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu  # as `pretrain` has it
    modes = [mode for mode in MODES if mode == "none" or mode in args.compile and can_compile()]
    encoders = args.encoder or ["small", "resnet18"][:1 + on_gpu]
    precision = simclr(encoders[0], args.batch, args.device).config.precision
    rate = matrix_rate(args.device, precision)
    found = [r for encoder in encoders for r in rows(encoder, modes, rate, args)]
    show("pipeline", found, args, precision=precision, workers=args.workers, rounds=args.rounds, steps=args.steps,
         **{"matrix rate, TFLOP/s": f"{rate / 1e12:.3g}"})


if __name__ == "__main__": main()
