"""Does it cost accuracy to compose all colour changes of a view into one matrix, clamped once, instead of doing what torchvision does?

SimCLR on training images of CIFAR-10, once with each, everything else equal; judged by neighbours and by a linear map on images held
out of the training set. One process is one seed of one way; nothing of it is in the run store.

    python tests/benchmarks/jitter_accuracy.py --way exact --seed 0 --out exact-0.json
"""
import argparse
import json
import math
import time

import torch
import torch.nn.functional as F

from sslnb import augment, data, evaluate
from sslnb.core import best_device
from sslnb.runs import provenance
from sslnb.train import TrainConfig, Training, resolve


def matrices(factors, order, mean):
    "Of each image's four changes in their order, the one matrix (N×3×3) and offset (N×3) of all; `mean`: its mean colour (N×3)."
    n, eye, w = len(mean), torch.eye(3, device=mean.device), mean.new_tensor(augment.LUMA)
    b, c, s, turn = factors.T
    around = [torch.cos(2 * math.pi * (turn - k / 3)) * 2 / 3 + 1 / 3 for k in range(3)]  # hue: about the grey axis of RGB
    hue = torch.stack([around[i] for i in (0, 2, 1, 1, 0, 2, 2, 1, 0)], 1).view(-1, 3, 3)
    grey = s[:, None, None] * eye + (1 - s)[:, None, None] * w
    ops = torch.stack([b[:, None, None] * eye, c[:, None, None] * eye, grey, hue], 1)
    A, t, every = eye.repeat(n, 1, 1), torch.zeros_like(mean), torch.arange(n, device=mean.device)
    for op in order.T:
        M, light = ops[every, op], (torch.einsum("nij,nj->ni", A, mean) + t) @ w
        t = torch.einsum("nij,nj->ni", M, t) + ((op == 1) * (1 - c) * light)[:, None]
        A = M @ A
    return A, t


def composed(x, factors, order):
    "In the place of `augment.colour_jitter_`."
    A, t = matrices(factors, order, x.mean((2, 3)))
    return x.copy_(torch.baddbmm(t[:, :, None], A, x.flatten(2)).clamp_(0, 1).view_as(x))


def neighbours_and_linear(encoder, fit, held):
    "Accuracies on `held`: 20 weighted neighbours; ridge regression to the classes, which has no seed."
    x, x_held = (evaluate.features(encoder, images).cpu() for images in (fit, held))
    near = evaluate.knn(x, fit.labels, x_held, n_classes=fit.n_classes).argmax(1)
    mean, std = x.mean(0), x.std(0) + 1e-6
    a, b = (F.pad((z - mean) / std, (0, 1), value=1.0) for z in (x, x_held))
    weights = torch.linalg.solve(a.T @ a + 10 * torch.eye(a.shape[1]), a.T @ F.one_hot(fit.labels, fit.n_classes).float())
    return {"knn": (near == held.labels).float().mean().item(), "linear": ((b @ weights).argmax(1) == held.labels).float().mean().item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=("exact", "composed"), required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--device", type=torch.device, default=best_device())
    parser.add_argument("--out", help="JSON")
    args = parser.parse_args()
    if args.way == "composed": augment.colour_jitter_ = composed
    images = data.load("cifar10").sample(19_000, seed=0)
    places = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held, fit = images[places[:4000]], images[places[4000:]]
    config = TrainConfig(method="simclr", encoder=args.encoder, steps=args.steps, batch_size=256, lr=0.3, optimizer="sgd",
                         weight_decay=5e-4, schedule="cosine", warmup=min(100, args.steps // 5), seed=args.seed,
                         options=dict(hidden=512, out=128, temperature=0.2))
    start, training = time.time(), Training(resolve(config, args.device, fit), args.device)
    while training.step < args.steps: training.take_step()
    training.check_finite()
    found = {"way": args.way, "seed": args.seed, "steps": args.steps, "seconds": round(time.time() - start)}
    found |= neighbours_and_linear(training.method.encoder.eval(), fit, held) | provenance(args.device)
    print(json.dumps(found))
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f: json.dump(found, f)


if __name__ == "__main__": main()
