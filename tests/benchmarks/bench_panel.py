"""What the evaluation of one encoder costs, as most notebooks ask for it (`evaluate`): features of all images, a linear probe at six
rates, nearest neighbours, the metrics of both. The encoder is not trained."""
from collections import defaultdict
from statistics import median

from common import images, options, seconds, show

from sslnb import data, models
from sslnb.evaluate import RATES, knn, linear_probe, metrics

GOAL = "< 45"  # seconds, for `small` and all of CIFAR-10 on two cores


def panel(encoder, train, test, device) -> tuple[dict[str, float], dict[str, float]]:
    "Seconds of each part, and the top-1 of both readings."
    times, k = defaultdict(float), train.n_classes
    def timed(part, fn, *args, **settings):
        found = []
        def work():
            found.append(fn(*args, **settings))
            return 1
        times[part] += seconds(work, device)
        return found[0]
    x, x_test = (timed("features", models.features, encoder, some) for some in (train, test))
    probe = timed(f"linear probe at {len(RATES)} rates", linear_probe, x, train.labels, x_test, n_classes=k)
    near = timed("nearest neighbours", knn, x, train.labels, x_test, n_classes=k)
    top1 = {f"top-1, {how}": timed("metrics", metrics, scores, test.labels)["top1"]
            for how, scores in (("linear", probe.scores), ("neighbours", near))}
    return times | {"all": sum(times.values())}, top1


def main():
    parser = options(__doc__, rounds=1)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--images", type=int, help="train on so many and test on a fifth of as many (default: all)")
    args = parser.parse_args()
    train, test = images(), data.load(images().name.split("/")[0], "test")
    if args.images: train, test = train.at_most(args.images), test.at_most(max(1, args.images // 5))
    encoder = models.encoder(args.encoder, train).to(args.device)
    rounds = [panel(encoder, train, test, args.device) for _ in range(args.rounds)]
    def row(part):
        t = [times[part] for times, _ in rounds]
        return {"part": part, "s (min–max)": f"{median(t):.2f} ({min(t):.2f}–{max(t):.2f})",
                "share": f"{median(t) / median(times['all'] for times, _ in rounds):.0%}",
                "goal": GOAL if part == "all" and not args.images else ""}
    show("panel", list(map(row, rounds[0][0])), args, encoder=args.encoder, train=len(train), test=len(test), rounds=args.rounds,
         **rounds[0][1])


if __name__ == "__main__": main()
