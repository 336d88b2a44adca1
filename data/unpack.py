"""Unpack the packs of the real image sets: `make data`, or `python data/unpack.py FOLDER_OF_PACKS`.

They go into the folder that SSLNB_DATA names, where `sslnb.data.load` looks, else into this one.
Each set appears whole or not at all (unpacked beside its place, then renamed), a set that is there is left alone, and
every pack is checked against SHA256SUMS first. Needs nothing but Python.
"""
import hashlib, os, shutil, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETS = {  # what `data.load` finds under this folder: the packs it is made of
    "cifar10": ["cifar10-train-a.zip", "cifar10-train-b.zip", "cifar10-test.zip"],
    "cifar100-20c": ["cifar100-20c.zip"],
    "stl10-subset": ["stl10-subset.zip"],
    "tiny-imagenet-20c": ["tiny-imagenet-20c.zip"],
    "caltech101": ["caltech101-64.zip"],
    "MNIST": ["mnist.tar.xz"]}
NO_PACKS = """No packs of the image sets at hand ({}), so there is nothing to unpack. To download a set instead:
    python -c "from sslnb.data import load; load('cifar10', download=True)"
The same works for cifar100, stl10 and mnist. The drawn sets and the digits need no files at all."""


def sums(packs: Path) -> dict[str, str]:
    "Pack name -> SHA-256, from the folder's SHA256SUMS."
    file = packs / "SHA256SUMS"
    if not file.exists(): sys.exit(f"{file} is missing: without it the packs cannot be checked.")
    lines = (line.split() for line in file.read_text("utf-8").splitlines())
    return {name.lstrip("*"): digest for digest, name in lines}


def verify(pack: Path, expected: str | None):
    "Stop unless the pack is, byte for byte, the one that SHA256SUMS lists."
    with open(pack, "rb") as f: found = hashlib.file_digest(f, "sha256").hexdigest()
    if found != expected: sys.exit(f"{pack} is damaged or unknown (SHA-256 {found}, SHA256SUMS says {expected}): "
                                   "copy it again.")


def extract(pack: Path, to: Path):
    "The files of one zip or tar below the folder `to`."
    options = {} if pack.suffix == ".zip" else {"filter": "data"}  # a tar may hold paths that lead elsewhere
    shutil.unpack_archive(pack, to, **options)


def unpack(name: str, packs: list[Path], expected: dict[str, str], dest: Path):
    "Make the set `name` under `dest` from its packs, whole or not at all."
    part = Path(tempfile.mkdtemp(prefix=f".{name}.unpacking-", dir=dest))
    try:
        for pack in packs:
            verify(pack, expected.get(pack.name))
            extract(pack, part)
        if name == "caltech101":  # torchvision stops where the class that it leaves out is not there
            (part / "101_ObjectCategories" / "BACKGROUND_Google").mkdir(exist_ok=True)
        part.chmod(0o755)
        os.rename(part / "MNIST" if name == "MNIST" else part, dest / name)  # that pack brings its own top folder
    finally: shutil.rmtree(part, ignore_errors=True)


def sweep(dest: Path):
    "Delete what an unpacking that was killed left: nobody has written to it for an hour."
    for part in dest.glob(".*.unpacking-*"):
        if time.time() - part.stat().st_mtime > 3600: shutil.rmtree(part, ignore_errors=True)


def main(packs: Path, dest: Path | None = None):
    "Unpack every set whose packs are all in the folder `packs` (into SSLNB_DATA, else this folder)."
    dest = dest or Path(os.environ.get("SSLNB_DATA") or HERE).expanduser()
    try: unpack_all(packs, dest)
    except OSError as err: sys.exit(f"{err.filename or dest}: {err.strerror or err}; nothing half was left in {dest}.")


def unpack_all(packs: Path, dest: Path):
    "Unpack what is not there yet."
    if not any((packs / p).exists() for parts in SETS.values() for p in parts):
        return print(NO_PACKS.format(packs))
    expected = sums(packs)
    dest.mkdir(parents=True, exist_ok=True)
    sweep(dest)
    for name, parts in SETS.items():
        missing = [p for p in parts if not (packs / p).exists()]
        if (dest / name).exists(): print(f"{name}: already in {dest}")
        elif missing: print(f"{name}: left out, {', '.join(missing)} not in {packs}")
        else:
            unpack(name, [packs / p for p in parts], expected, dest)
            print(f"{name}: unpacked into {dest}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent / "shared" / "data")
