"Random views per second in one process: sslnb's batch, kornia's batch, lightly's image by image."
from functools import partial
from statistics import median

from common import images, options, show, take_turns
import torch
from kornia import augmentation as K
from lightly.transforms import SimCLRTransform
from PIL import Image

from sslnb.augment import RECIPES, augment
from sslnb.core import rng


def ours(pixels, threads: int) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    augment(pixels, RECIPES["simclr"], rng("views", device=pixels.device))
    torch.set_num_threads(before)
    return len(pixels)


def kornia(side: int):
    "kornia's operators with the parameters of the recipe `simclr`."
    a = RECIPES["simclr"]
    chain = torch.nn.Sequential(
        K.RandomResizedCrop((side, side), scale=a.scale, ratio=a.ratio), K.RandomHorizontalFlip(p=a.flip),
        K.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue, p=a.jitter), K.RandomGrayscale(p=a.grey))
    def work(pixels):
        chain(pixels.float() / 255)
        return len(pixels)
    return work


def lightly(side: int):
    "lightly's transform with the parameters of the recipe `simclr`; it starts from PIL images, as in a data set."
    transform = SimCLRTransform(input_size=side, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.0, normalize=None)
    def work(pictures):
        torch.stack([view for p in pictures for view in transform(p)])
        return 2 * len(pictures)
    return work


def main():
    parser = options(__doc__, rounds=30)
    args = parser.parse_args()
    found = images()
    pixels = found.pixels[:args.batch].repeat(2, 1, 1, 1)
    side, threads, on_device = pixels.shape[-1], torch.get_num_threads(), pixels.to(args.device)
    pictures = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixels[:64]]
    contenders = {"sslnb": partial(ours, on_device, threads), "sslnb, one thread": partial(ours, on_device, 1),
                  "kornia": partial(kornia(side), on_device), "lightly": partial(lightly(side), pictures)}
    times = take_turns(contenders, args.rounds, args.device)
    rate = {name: [1 / t for t in ts] for name, ts in times.items()}
    goals = {"kornia": "≥ 5", "lightly": "≥ 25"}
    show("augment", [{"views by": name, "views/s": f"{median(r):,.0f}", "min–max": f"{min(r):,.0f}–{max(r):,.0f}",
                      "sslnb is faster by": f"{median(rate['sslnb']) / median(r):.1f}", "goal": goals.get(name, "")}
                     for name, r in rate.items()], args)


if __name__ == "__main__": main()
