"What torch.compile of the encoder gives, compile time counted: from how many steps on it pays."
import json, math, os, subprocess, sys, tempfile
from statistics import median

from common import can_compile, ms, options, seconds, show, simclr, take_turns

from sslnb.augment import augment
from sslnb.core import rng


def measure(args) -> dict:
    "Seconds of the first compiled step, and of later steps with and without compiling."
    plain, compiled = (simclr(args.encoder, args.batch, args.device, compile=c) for c in ("none", "default"))
    pixels = plain.images.pixels[:args.batch].repeat(2, 1, 1, 1)
    views = augment(pixels, plain.config.augment, rng("views", device=args.device))
    def steps(training, n):
        for _ in range(n): training.update(views, None)
        return n
    first = seconds(lambda: steps(compiled, 1), args.device)
    return {"first": first} | take_turns({"plain": lambda: steps(plain, 4), "compiled": lambda: steps(compiled, 4)},
                                         args.rounds, args.device)


def row(about: str, found: dict) -> dict:
    plain, compiled = median(found["plain"]), median(found["compiled"])
    wait = found["first"] - compiled
    return {"cache": about, "plain ms/step (min–max)": ms(found["plain"]), "compiled": ms(found["compiled"]),
            "faster by": f"{plain / compiled:.2f}", "compiling, s": f"{wait:.1f}",
            "pays from step": f"{math.ceil(wait / (plain - compiled)):,}" if plain > compiled else "never"}


def main():
    parser = options(__doc__)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--child", action="store_true", help="one measurement, as JSON: this script calls itself")
    args = parser.parse_args()
    if args.child: return print(json.dumps(measure(args)))
    if not can_compile(): return
    with tempfile.TemporaryDirectory() as cache:  # a process of its own each time: empty cache, then the filled one
        env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        command = [sys.executable, *sys.argv, "--child"]
        call = lambda: subprocess.run(command, stdout=subprocess.PIPE, check=True, env=env).stdout
        found = [row(about, json.loads(call())) for about in ("empty", "filled")]
    show("compile", found, args, encoder=args.encoder)


if __name__ == "__main__": main()
