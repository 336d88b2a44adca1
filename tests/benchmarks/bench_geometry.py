"InPCA and progress at the size of the paper's Fig. 1b and 2a, against one pair or one epoch at a time with NumPy and scipy."
import resource, time

import numpy as np
import torch
from common import options, show
from scipy.optimize import minimize_scalar

from sslnb.core import rng
from sslnb.geometry import inpca, progress


def naive_distances(p) -> np.ndarray:
    "A model at a time against all others, in double precision."
    roots = np.sqrt(p.astype(np.float64))
    return np.stack([-np.log(np.einsum("nc,mnc->mn", r, roots)).mean(1) for r in roots])


def naive_progress(p, labels) -> list[float]:
    "scipy's bounded minimiser, an epoch at a time, as in the authors' script."
    start, end = np.full(p.shape[1:], p.shape[2] ** -0.5), np.eye(p.shape[2])[labels]
    angle = np.arccos((start * end).sum(1))[:, None]
    def distance(t, root):
        way = (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
        return -np.log((way * root).sum(1)).mean()
    return [minimize_scalar(distance, bounds=(0, 1), args=(np.sqrt(q),), method="bounded").x for q in p.astype(np.float64)]


def clock(work, device) -> tuple[float, object]:
    "Seconds that `work` takes, and what it gives."
    start = time.perf_counter()
    found = work()
    if device.type == "cuda": torch.cuda.synchronize()
    return time.perf_counter() - start, found


def main():
    parser = options(__doc__)
    parser.add_argument("--models", type=int, default=400)
    parser.add_argument("--images", type=int, default=2_500)
    parser.add_argument("--classes", type=int, default=5)
    args = parser.parse_args()
    g = rng("geometry")
    labels = torch.randint(args.classes, (args.images,), generator=g)
    p = torch.randn(args.models, args.images, args.classes, generator=g).mul_(3).softmax(2).to(args.device)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    before = peak()
    times, found = {}, {}
    times["inpca"], found["inpca"] = clock(lambda: inpca(p), args.device)
    times["progress"], found["progress"] = clock(lambda: progress(p, labels.to(args.device)), args.device)
    after, values = peak(), p.cpu().numpy()
    times["distances, a model at a time"], direct = clock(lambda: naive_distances(values), args.device)
    times["progress, an epoch at a time"], each = clock(lambda: naive_progress(values, labels.numpy()), args.device)
    error = {"inpca": np.abs(found["inpca"].distances.cpu().numpy() - direct).max(),
             "progress": np.abs(found["progress"].cpu().numpy() - each).max()}
    show("geometry", [{"what": name, "s": f"{t:.2f}", "largest difference": f"{error[name]:.0e}" if name in error else "",
                       "goal": "< 10 s" if name == "inpca" else ""} for name, t in times.items()],
         args, images="made up", batch="all", size=f"{args.models} models × {args.images} images × {args.classes} classes",
         peak=f"{after:.2f} GiB, {before:.2f} before (goal: < 1)")


if __name__ == "__main__": main()
