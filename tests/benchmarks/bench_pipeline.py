"SimCLR end to end, against the network alone on ready-made views and against lightly's transform in a DataLoader."
import os
from functools import partial
from statistics import median

from common import flops, images, ms, options, show, simclr, take_turns
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from sslnb.augment import augment
from sslnb.core import rng


class Pictures(Dataset):
    "The first `n` images (repeated where there are fewer), as lightly sees them: two views of one PIL image at a time."
    def __init__(self, n: int):
        self.n, self.pixels = n, images().pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = SimCLRTransform(input_size=self.pixels.shape[1], cj_strength=0.5, min_scale=0.2,
                                         gaussian_blur=0.0, normalize=None)  # the encoder normalises

    def __len__(self): return self.n
    def __getitem__(self, i): return self.transform(Image.fromarray(self.pixels[i % len(self.pixels)]))


def contenders(training, plain, args) -> dict:
    "Name -> work: `steps` updates of the same network on views from different sources."
    pixels = training.images.pixels[:args.batch].repeat(2, 1, 1, 1)
    ready = augment(pixels, training.config.augment, rng("views", device=args.device))
    # every turn is one whole epoch, so that no worker is busy in another contender's turn
    loader = DataLoader(Pictures(args.steps * args.batch), args.batch, shuffle=True, num_workers=args.workers,
                        persistent_workers=True, pin_memory=args.device.type == "cuda")
    def alone():
        for _ in range(args.steps): training.update(ready, None)
        return args.steps
    def sslnb():
        for _ in range(args.steps): training.take_step()
        return args.steps
    def lightly(trained):
        for views in loader: trained.update(torch.cat(views).to(args.device, non_blocking=True), None)
        return args.steps
    return {"ready-made: the network alone": alone, "sslnb": sslnb, "lightly + DataLoader": partial(lightly, training),
            "lightly + DataLoader, fp32": partial(lightly, plain)}, flops(training, ready)


def row(name: str, times: list[float], ours: float, total: int, args) -> dict:
    speed = total / median(times) / 1e12
    goal = {"ready-made: the network alone": "≥ 0.95",
            "lightly + DataLoader": "≥ 3" if args.encoder == "small" else "≥ 2"}
    return {"views from": name, "ms/step (min–max)": ms(times), "images/s": f"{args.batch / median(times):,.0f}",
            "sslnb's speed / its": f"{median(times) / ours:.2f}", "goal": goal.get(name, ""), "TFLOP/s": f"{speed:.3g}",
            } | ({"of peak": f"{speed / args.peak_tflops:.0%}"} if args.peak_tflops else {})


def main():
    parser = options(__doc__)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--steps", type=int, default=8, help="updates per turn")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the DataLoader")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak, to print the share of it that is used")
    args = parser.parse_args()
    training = simclr(args.encoder, args.batch, args.device)
    works, total = contenders(training, simclr(args.encoder, args.batch, args.device, precision="fp32"), args)
    times = take_turns(works, args.rounds, args.device)
    rows = [row(name, t, median(times["sslnb"]), total, args) for name, t in times.items()]
    show(f"pipeline-{args.encoder}", rows, args,
         precision=training.config.precision, workers=args.workers, rounds=args.rounds, steps=args.steps)


if __name__ == "__main__": main()
