"Logistic regression at 45 values of C: sslnb, all as one batch, and scikit-learn, each started from the one before."
import warnings
from functools import partial
from statistics import median

from common import options, show, take_turns
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from sslnb.core import rng
from sslnb.logistic import CS, fit


def samples(n: int, d: int, k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    "`n` points in `k` classes that overlap, in directions of unequal variance as features have them."
    g = rng("logistic", n, d, k)
    y = torch.randint(k, (n,), generator=g)
    x = torch.randn(n, d, generator=g) + 0.15 * torch.randn(k, d, generator=g)[y]
    return (x * torch.logspace(0, -1.5, d)).to(device), y.to(device)


def objectives(x, y, weight, bias) -> torch.Tensor:
    "C·Σ cross-entropy + ½‖W‖² at each C, on the CPU in double precision: the same measure for all."
    x, y = x.cpu().double(), y.cpu()
    return torch.stack([C * F.cross_entropy(x @ w + b, y, reduction="sum") + w.square().sum() / 2
                        for C, w, b in zip(CS, weight.cpu().double(), bias.cpu().double())])


def ours(x, y):
    found = fit(x, y, CS, int(y.max()) + 1)
    return found.weight, found.bias


def exact(x, y):
    "In float64, until a billionth is left to gain."
    found = fit(x.double(), y, CS, int(y.max()) + 1, tolerance=1e-9)
    return found.weight, found.bias


def sklearns(x, y, dtype=torch.float32, tol=1e-4):
    "Its default tolerance `tol`, of the gradient, ends the search early at large C: see the column of objectives."
    x, y, found = x.to(dtype).cpu().numpy(), y.cpu().numpy(), []
    model = LogisticRegression(max_iter=5000, warm_start=True, tol=tol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for C in CS:
            model.set_params(C=C).fit(x, y)
            found.append((torch.from_numpy(model.coef_.T.copy()).double(), torch.from_numpy(model.intercept_.copy()).double()))
    return tuple(map(torch.stack, zip(*found)))


def main():
    parser = options(__doc__, rounds=3)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    args = parser.parse_args()
    x, y = samples(args.points, args.features, args.classes, args.device)
    double = partial(sklearns, dtype=torch.float64)
    ways, found = {"sslnb": ours, "scikit-learn, warm-started, float32": sklearns,
                   "scikit-learn, warm-started, float64": double,
                   "scikit-learn, warm-started, float64, tol=1e-7": partial(double, tol=1e-7)}, {}
    def work(name):
        found[name] = ways[name](x, y)
        return 1
    times = take_turns({name: partial(work, name) for name in ways}, args.rounds, args.device)
    found = {name: objectives(x, y, *solution) for name, solution in found.items()}
    lowest = objectives(x, y, *exact(x, y)).minimum(torch.stack(list(found.values())).min(0).values)
    def row(name, t):
        return {"by": name, "s (min–max)": f"{median(t):.2f} ({min(t):.2f}–{max(t):.2f})",
                "sslnb is faster by": f"{median(t) / median(times['sslnb']):.2f}",
                "goal": "≥ 5" if name != "sslnb" else "",
                "furthest above the lowest objective": f"{(found[name] / lowest - 1).max():.1e}"}
    show("logistic", [row(*item) for item in times.items()], args, images="drawn classes", batch="all", points=args.points,
         features=args.features, classes=args.classes, Cs=len(CS))


if __name__ == "__main__": main()
