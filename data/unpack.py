"""Unpack the lossless packs of the real image sets into this folder: `make data`, or `python data/unpack.py FOLDER`.

Each set appears whole or not at all (unpacked beside its place, then renamed), a set that is there is left alone, and
every pack is checked against SHA256SUMS first. Needs nothing but Python.
"""
import hashlib, os, shutil, sys, tarfile, tempfile, zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETS = {  # what `data.load` finds under this folder: the packs it is made of
    "cifar10": ["cifar10-train-a.zip", "cifar10-train-b.zip", "cifar10-test.zip"],
    "cifar100-20c": ["cifar100-20c.zip"],
    "stl10-subset": ["stl10-subset.zip"],
    "tiny-imagenet-20c": ["tiny-imagenet-20c.zip"],
    "MNIST": ["mnist.tar.xz"]}
NO_PACKS = """No packs of the image sets at hand ({}), so there is nothing to unpack. To download a set instead:
    python -c "from sslnb.data import load; load('cifar10', download=True)"
The same works for cifar100, stl10 and mnist. The drawn sets and the digits need no files at all."""


def sums(packs: Path) -> dict[str, str]:
    "Pack name -> SHA-256, from the folder's SHA256SUMS."
    file = packs / "SHA256SUMS"
    if not file.exists(): sys.exit(f"{file} is missing: without it the packs cannot be checked.")
    return {name.lstrip("*"): digest for digest, name in (line.split() for line in file.read_text().splitlines())}


def verify(pack: Path, expected: str | None):
    "Stop unless the pack is, byte for byte, the one that SHA256SUMS lists."
    with open(pack, "rb") as f: found = hashlib.file_digest(f, "sha256").hexdigest()
    if found != expected: sys.exit(f"{pack} is damaged or unknown (SHA-256 {found}, SHA256SUMS says {expected}): "
                                   "copy it again.")


def extract(pack: Path, to: Path):
    "The files of one zip or tar below the folder `to`."
    if pack.suffix == ".zip":
        with zipfile.ZipFile(pack) as z: z.extractall(to)
    else:
        with tarfile.open(pack) as t: t.extractall(to, filter="data")


def unpack(name: str, packs: list[Path], expected: dict[str, str], dest: Path):
    "Make the set `name` under `dest` from its packs, whole or not at all."
    part = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=dest))
    try:
        for pack in packs:
            verify(pack, expected.get(pack.name))
            extract(pack, part)
        part.chmod(0o755)
        os.rename(part / "MNIST" if name == "MNIST" else part, dest / name)  # that pack brings its own top folder
    finally: shutil.rmtree(part, ignore_errors=True)


def main(packs: Path, dest: Path = HERE):
    "Unpack every set whose packs are all in the folder `packs`."
    if not any((packs / p).exists() for parts in SETS.values() for p in parts):
        return print(NO_PACKS.format(packs))
    expected = sums(packs)
    for name, parts in SETS.items():
        missing = [p for p in parts if not (packs / p).exists()]
        if (dest / name).exists(): print(f"{name}: already there")
        elif missing: print(f"{name}: left out, {', '.join(missing)} not in {packs}")
        else:
            unpack(name, [packs / p for p in parts], expected, dest)
            print(f"{name}: unpacked")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent / "shared" / "data")
