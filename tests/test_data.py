"""Faults that a notebook cell cannot show: damaged files, killed and competing processes; the real sets."""
import hashlib, multiprocessing, os, pickle, resource, runpy, signal, struct, subprocess, sys, time, warnings, zipfile
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torchvision.datasets import Caltech101

from sslnb import core, data
from sslnb.core import ROOT
from sslnb.data import DataError, Images, is_there, load, public_name
from sslnb.downstream import load_parts
from sslnb.runs import cached

fork = multiprocessing.get_context("fork")


def paint(path: Path, seed=0, w=16, h=16, mode="RGB", **options) -> np.ndarray:
    "A file of random pixels."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return pixels


@pytest.fixture(autouse=True)
def no_other_cache(tmp_path, monkeypatch):
    "A user's own cache is the test's own."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home cache"))


@pytest.fixture
def root(tmp_path):
    "A data folder with one tree `zoo`: 4 train and 2 test images of ant and bee."
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        for i in numbers:
            paint(tmp_path / "zoo" / split / "ant" / f"{i}.png", seed=i)
            paint(tmp_path / "zoo" / split / "bee" / f"{i}.png", seed=i + 9)
    return tmp_path


def no_cache(root) -> bool:
    "Nothing was left that could pass for a decoded set."
    return not [p for p in (root / "cache").glob("*") if p.is_dir()]


def fault(root, *words, **asked):
    "Loading the tree must stop with a message that holds all of `words`, and leave no cache."
    with pytest.raises(DataError) as err: load("zoo", root=root, **asked)
    assert all(word in str(err.value) for word in words), str(err.value)
    assert no_cache(root)


def test_tree(root):
    images = load("zoo", root=root)
    assert images.pixels.dtype == torch.uint8 and images.labels.tolist() == [0] * 4 + [1] * 4
    expected = paint(root / "x.png", seed=10)
    assert np.array_equal(images.pixels[5].permute(1, 2, 0), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the read-only map must not make PyTorch warn
        again = load("zoo", root=root)
    assert again.fingerprint == images.fingerprint != load("zoo", "test", root=root).fingerprint


@pytest.mark.parametrize("suffix,options", [("png", {}), ("jpg", {}), ("jpg", {"progressive": True}),
                                            ("webp", {}), ("webp", {"lossless": True}), ("gif", {})])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_truncated_image(root, suffix, options, keep):
    file = root / "zoo" / "train" / "bee" / f"half.{suffix}"
    paint(file, **options)
    whole = file.read_bytes()
    file.write_bytes(whole[:keep if keep in (0, 10) else int(keep * len(whole))])
    fault(root, f"half.{suffix}", "cannot be read")
    file.write_bytes(whole)
    assert len(load("zoo", root=root)) == 9


def test_flipped_byte_in_png(root):
    file = root / "zoo" / "train" / "bee" / "1.png"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    fault(root, "1.png")


def test_other_depths(root):
    "16 bits have a range, 32 have none that we know."
    for mode in ("F", "I"):
        Image.new(mode, (16, 16)).save(root / "zoo" / "train" / "ant" / "deep.tiff")
        fault(root, "deep.tiff", f"type {mode}", "unknown range")


def twelve_bits(path):
    "A TIFF file of 16×2 grey pixels with 12 bits each."
    entries = [(256, 4, 16), (257, 4, 2), (258, 3, 12), (259, 3, 1), (262, 3, 1),
               (273, 4, 122), (277, 3, 1), (278, 4, 2), (279, 4, 48)]
    head = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    path.write_bytes(head + table + bytes(4) + b"\xff" * 48)


def test_twelve_bits_are_not_taken_for_sixteen(tmp_path):
    twelve_bits(tmp_path / "flat.tiff")
    with pytest.raises(DataError, match="flat.tiff"): load(f"folder:{tmp_path}", root=tmp_path / "data")


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
HALF = np.where(np.arange(16)[:, None] < 8, 255, 0).astype(np.uint8).repeat(16, 1)  # what can be seen: the upper half
SEEN = np.where(HALF == 255, GREY, 255)  # on white paper


def grey_with(alpha) -> Image.Image: return Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha)))


def palette() -> Image.Image:
    "Every grey once, as a palette."
    im = Image.frombytes("P", (16, 16), GREY.tobytes())
    im.putpalette([v for v in range(256) for _ in range(3)])
    return im


def rgb(grey) -> Image.Image: return Image.fromarray(np.stack([grey] * 3, 2))


CUT = np.where(GREY == 17, 255, GREY)  # the grey 17 is transparent
PICTURES = {  # name: (the image, how to save it, what is to be seen)
    "grey.png": (Image.fromarray(GREY), {}, GREY),
    "one bit.png": (Image.fromarray(HALF).convert("1"), {}, HALF),
    "palette.png": (palette(), {}, GREY),
    "rgb.bmp": (rgb(GREY), {}, GREY),
    "grey and alpha.png": (grey_with(HALF), {}, SEEN),
    "rgba.png": (grey_with(HALF).convert("RGBA"), {}, SEEN),
    "rgba.webp": (grey_with(HALF).convert("RGBA"), {"lossless": True, "exact": True}, SEEN),
    "rgba.tiff": (grey_with(HALF).convert("RGBA"), {}, SEEN),
    "transparent grey.png": (Image.fromarray(GREY), {"transparency": 17}, CUT),
    "transparent rgb.png": (rgb(GREY), {"transparency": (17, 17, 17)}, CUT),
    "transparent bit.png": (Image.fromarray(HALF).convert("1"), {"transparency": 0}, np.full_like(GREY, 255)),
    "transparent palette.png": (palette(), {"transparency": 17}, CUT),
    "palette of transparencies.png": (palette(), {"transparency": bytes([255] * 17 + [0] + [255] * 238)}, CUT),
    "transparent.gif": (palette(), {"transparency": 17}, CUT),
    "16 bits.png": (Image.fromarray(GREY.astype(np.uint16) * 257), {}, GREY),
    "16 bits.tiff": (Image.fromarray(GREY.astype(np.uint16) * 257), {}, GREY),
    "16 bits.pgm": (Image.fromarray(GREY.astype(np.uint16) * 257), {}, GREY),
    "16 bits rounded.png": (
        Image.fromarray(GREY.astype(np.uint16) * 257 + np.where(GREY < 255, 100, 0).astype(np.uint16)), {}, GREY),
    "transparent 16 bits.png": (Image.fromarray(GREY.astype(np.uint16) * 257), {"transparency": 17 * 257}, CUT),
    "cmyk.tiff": (rgb(GREY).convert("CMYK"), {}, GREY),
    "animated.gif": (palette(), {"save_all": True, "append_images": [Image.new("P", (16, 16))]}, GREY),
    "animated.png": (rgb(GREY), {"save_all": True, "append_images": [Image.new("RGB", (16, 16))]}, GREY),
    "animated.webp": (
        rgb(GREY), {"save_all": True, "append_images": [Image.new("RGB", (16, 16))], "lossless": True}, GREY)}


@pytest.mark.parametrize("name", PICTURES)
def test_picture(tmp_path, name):
    im, options, seen = PICTURES[name]
    (tmp_path / "set").mkdir()
    im.save(tmp_path / "set" / name, **options)
    found = load(f"folder:{tmp_path}/set", root=tmp_path)
    assert found.pixels.shape == (1, 3, 16, 16) and all(np.array_equal(channel, seen) for channel in found.pixels[0])


def test_half_transparent_is_half_white(tmp_path):
    grey_with(np.full_like(GREY, 128)).save(tmp_path / "half.png")
    found = load(f"folder:{tmp_path}", root=tmp_path / "data").pixels[0, 0].numpy().astype(float)
    assert abs(found - (GREY * 128. + 255 * 127) / 255).max() <= 1


def test_print_colours_of_a_jpeg(tmp_path):
    Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(tmp_path / "red.jpg", quality=100)
    found = load(f"folder:{tmp_path}", root=tmp_path / "data").pixels[0].float().mean((1, 2))
    assert (found - torch.tensor([200., 30, 60])).abs().max() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix, options", [("jpg", {"quality": 100, "subsampling": 0}), ("png", {}),
                                             ("webp", {"lossless": True}), ("tiff", {})])
def test_camera_held_sideways(tmp_path, suffix, options, orientation):
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste((255, 0, 0), (0, 0, 16, 8))
    # the transposition that undoes the one that the number stands for
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"photo.{suffix}", exif=exif, **options)
    found = load(f"folder:{tmp_path}", root=tmp_path / "data").pixels[0].permute(1, 2, 0).numpy().astype(int)
    assert found.shape == (16, 32, 3) and abs(found - np.asarray(upright)).max() < 60
    assert np.array_equal(found > 128, np.asarray(upright) > 128)


def test_broken_exif(tmp_path):
    rgb(GREY).save(tmp_path / "photo.png", exif=b"Exif\0\0nonsense")
    assert np.array_equal(load(f"folder:{tmp_path}", root=tmp_path / "data").pixels[0, 0], GREY)


def test_wrong_ending(root):
    paint(root / "zoo" / "train" / "bee" / "8.png", seed=3)
    (root / "zoo" / "train" / "bee" / "8.png").rename(root / "zoo" / "train" / "bee" / "8.jpg")
    assert len(load("zoo", root=root)) == 9  # what is inside counts
    (root / "zoo" / "train" / "bee" / "9.jpg").write_text("a shopping list", "utf-8")
    with pytest.raises(DataError, match="9.jpg: cannot be read as an image"): load("zoo", root=root)


def folder(path): path.mkdir()
def link(path): path.symlink_to("nowhere")
def pipe(path): os.mkfifo(path)


@pytest.mark.parametrize("make, words", [(folder, "a folder where an image belongs"), (link, "a broken link where"),
                                         (pipe, "no file where")])
@pytest.mark.parametrize("flat", [False, True])
def test_no_image(root, make, words, flat):
    place = root / "zoo" / "train" / "bee"
    make(place / "x.jpg")
    if not flat: return fault(root, "x.jpg", words)
    if make is folder: paint(place / "x.jpg" / "0.png")  # with images inside it could be a split
    with pytest.raises(DataError, match="x.jpg"): load(f"folder:{place}", root=root)


def test_stray_files(root):
    train = root / "zoo" / "train"
    (train / ".DS_Store").write_text("ignored", "utf-8")
    (train / "ant" / "._0.png").write_text("ignored", "utf-8")
    (root / "zoo" / "README").write_text("beside the splits anything may lie", "utf-8")
    assert len(load("zoo", root=root)) == 8
    (train / "ant" / "notes.txt").write_text("no image", "utf-8")
    with pytest.raises(DataError, match="notes.txt"): load("zoo", root=root)
    (train / "ant" / "notes.txt").rename(train / "notes.txt")
    with pytest.raises(DataError, match="notes.txt"): load("zoo", root=root)
    (train / "notes.txt").unlink()
    (train / "ant" / "more").mkdir()
    with pytest.raises(DataError, match="more"): load("zoo", root=root)


def test_wrong_trees(root):
    (root / "zoo" / "train" / "cat").mkdir()
    (root / "zoo" / "test" / "cat").mkdir()
    fault(root, str(Path("train") / "cat"), "without images")
    paint(root / "zoo" / "train" / "cat" / "0.png")
    (root / "zoo" / "test" / "cat").rmdir()
    fault(root, "train and test", "cat")
    fault(root, "val", "test, train", split="val")


def test_unlabelled_split(root):
    paint(root / "zoo" / "unlabeled" / "all" / "0.png")
    images = load("zoo", "unlabeled", root=root)
    assert images.labels.tolist() == [-1] and images.classes == ("ant", "bee")
    with pytest.raises(DataError): images.sample(2, seed=0)


def test_grey_and_mixed_sizes(root):
    grey = root / "zoo" / "train" / "bee" / "grey.png"
    paint(grey, mode="L")
    images = load("zoo", root=root)
    assert torch.equal(images.pixels[-1, 0], images.pixels[-1, 1])
    paint(grey, w=20, h=12, mode="L")
    with pytest.raises(DataError, match="0.png is 16×16.*grey.png is 20×12.*size=.*folder:PATH@32"):
        load("zoo", root=root)
    assert load("zoo", root=root, size=16).pixels.shape == (9, 3, 16, 16)


def test_images_that_are_not_square(tmp_path):
    for i in range(4): paint(tmp_path / "wide" / "train" / "ab"[i % 2] / f"{i}.png", seed=i, w=48, h=32)
    images = load("wide", root=tmp_path)
    assert images.pixels.shape == (4, 3, 32, 48) and images.n_classes == 2
    assert load("wide", root=tmp_path, size=32).pixels.shape == (4, 3, 32, 32)
    assert torch.equal(load("wide", root=tmp_path, size=32).pixels, images.pixels[..., 8:40])  # the middle


def test_images_without_labels(tmp_path):
    "A folder of images, folders of images that are splits, and a test split without labels."
    for i in range(3): paint(tmp_path / "flat" / f"{i}.jpg", seed=i)
    for where in (dict(name="flat"), dict(name=f"folder:{tmp_path}/flat")):
        images = load(**where, root=tmp_path)
        assert images.labels.tolist() == [-1] * 3 and images.n_classes == 0 and images.name.endswith("/train")
        assert len(images.sample(2, seed=0)) == 2 and len(images.split(0.34, seed=0)[1]) == 1
        with pytest.raises(DataError, match="no split 'test'; it has: train"):
            load(**where, split="test", root=tmp_path)
    (tmp_path / "flat" / "notes.txt").write_text("no image", "utf-8")
    with pytest.raises(DataError, match="notes.txt"): load("flat", root=tmp_path)
    for split in ("train", "val"): paint(tmp_path / "parts" / split / "0.png")
    assert load("parts", "val", root=tmp_path).labels.tolist() == [-1]
    paint(tmp_path / "mixed" / "train" / "ant" / "0.png"), paint(tmp_path / "mixed" / "test" / "0.png")
    assert load("mixed", root=tmp_path).labels.tolist() == [0]
    secret = load("mixed", "test", root=tmp_path)
    assert secret.labels.tolist() == [-1] and secret.classes == ("ant",)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no set called 'nothing'"): load("nothing", root=tmp_path)
    with pytest.raises(DataError, match="nothing: a folder without images"):
        load(f"folder:{tmp_path}/nothing", root=tmp_path)
    assert data._trees(tmp_path) == ["flat", "mixed", "parts"]


def as_nobody(report, fn):
    "What `fn` gives, or its DataError, for a user who owns nothing here."
    os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try: answer = fn()
        except DataError as err: answer = str(err)
    report.send((answer, [str(w.message) for w in seen]))


def nobody(fn):
    "(answer or message, warnings) of `fn` in a process without rights."
    if os.geteuid(): pytest.skip("only root can become nobody")
    here, there = multiprocessing.Pipe(duplex=False)
    process = fork.Process(target=as_nobody, args=(there, fn))
    process.start()
    there.close()
    try: return here.recv()
    finally: process.join()


@pytest.fixture
def shared(root):
    "The data folder `root`, whose parents anyone may enter, closed to writing."
    for at in [root, *root.parents][:-2]: at.chmod(at.stat().st_mode | 0o055)
    root.chmod(0o555)
    return root


def test_unreadable_neighbours(shared):
    "A folder that may not be read stops only who asks for it."
    home = shared / "home"
    home.mkdir(), home.chmod(0o777)
    def fingerprint(name, split="train"):
        os.environ["SSLNB_CACHE"] = str(home)
        return load(name, split, root=shared).fingerprint
    names = ("zoo", "digits")
    expected = [load(name, root=shared).fingerprint for name in names]
    for name in ("lost+found", "private", "zoo/val", "zoo/lost+found"): (shared / name).mkdir(mode=0)
    assert [nobody(lambda: fingerprint(name)) for name in names] == [(e, []) for e in expected]
    assert nobody(lambda: fingerprint("nope"))[0].endswith(f"under {shared}: zoo; any other folder: folder:PATH")
    assert "private: cannot be read (Permission denied)" in nobody(lambda: fingerprint("private"))[0]
    assert "val: cannot be read (Permission denied)" in nobody(lambda: fingerprint("zoo", "val"))[0]
    assert "no folder" in nobody(lambda: fingerprint(f"folder:{shared}/private/deep"))[0]
    asked = [("zoo", "train"), ("private", "train"), ("zoo", "val")]
    assert nobody(lambda: [is_there(*what, root=shared) for what in asked])[0] == [True, False, False]
    (shared / "zoo" / "train" / "ant" / "0.png").chmod(0)
    os.utime(shared / "zoo" / "train" / "ant" / "0.png")
    assert "0.png: cannot be read" in nobody(lambda: fingerprint("zoo"))[0]


def test_cache_closed_to_writing(shared):
    "What is in it is used; what is not goes into the user's own, with one warning."
    mine = shared / "home cache"
    def fingerprint(split): return load("zoo", split, root=shared).fingerprint
    expected = fingerprint("train")
    assert nobody(lambda: fingerprint("train")) == (expected, [])
    answer, said = nobody(lambda: fingerprint("test"))
    assert "no place for decoded sets" in answer and "SSLNB_CACHE" in answer and said == []
    mine.mkdir(), mine.chmod(0o777)
    answer, said = nobody(lambda: (fingerprint("test"), fingerprint("test")))
    assert answer == (fingerprint("test"),) * 2
    assert len(said) == 1 and str(shared / "cache") in said[0] and "SSLNB_CACHE" in said[0]


def test_cache_elsewhere(root, monkeypatch, tmp_path):
    monkeypatch.setenv("SSLNB_CACHE", str(tmp_path / "fast disk"))
    first = load("zoo", root=root).fingerprint
    assert (tmp_path / "fast disk" / "zoo-train").is_dir() and not (root / "cache").exists()
    assert load("zoo", root=root).fingerprint == first and data.cache_folder(root) == tmp_path / "fast disk"
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("SSLNB_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="file .*set SSLNB_CACHE to a folder where you may write"):
        load("zoo", root=root)


def limited(root, report):
    "Load where no file may be larger than 4 KB."
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try: load("zoo", root=root)
    except DataError as err: report.send(str(err))


def test_no_room(root, monkeypatch):
    here, there = multiprocessing.Pipe(duplex=False)
    process = fork.Process(target=limited, args=(root, there))
    process.start()
    assert here.poll(60)
    message = here.recv()
    process.join()
    assert "zoo/train could not be kept there (File too large); make room, or set SSLNB_CACHE" in message
    assert no_cache(root)  # what was half written does not take the room that is left
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(data, "_sync", full)
    fault(root, "No space left on device", "make room")


def impatient_load(root, log):
    "Load, and write what is said on the standard error to `log`."
    core._PATIENCE = 0.1
    with open(log, "w", encoding="utf-8", buffering=1) as sys.stderr: load("zoo", root=root)


def test_a_lock_is_not_waited_for_in_silence(root, tmp_path):
    (root / "cache").mkdir()
    lock, log = root / "cache" / "zoo-train.lock", tmp_path / "log"
    process = fork.Process(target=impatient_load, args=(root, log))
    with FileLock(lock):
        process.start()
        while not (log.exists() and log.read_text("utf-8").endswith("\n")): time.sleep(0.01)
        assert process.is_alive() and not (root / "cache" / "zoo-train").exists()
    process.join(60)
    said = log.read_text("utf-8")
    assert process.exitcode == 0 and (root / "cache" / "zoo-train").is_dir()
    assert said.count("waiting for the decoding of zoo/train") == 1 and str(lock) in said and "delete that file" in said


ASCII = """
import sys
from pathlib import Path
from sslnb import data
print(ascii(data.load("zoo", root=sys.argv[1]).classes), data._drawn("shapes", "train", None)[0])
"""


@pytest.mark.slow
def test_text_is_utf8_whatever_the_locale(root):
    (root / "zoo" / "classes.txt").write_text("\ufeffant Ameise\nbee Bärchen, Apis\n", "utf-8")
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONWARNDEFAULTENCODING": "1",
             "PYTHONWARNINGS": "error::EncodingWarning:sslnb.data"}
    done = subprocess.run([sys.executable, "-c", ASCII, root], env=os.environ | plain, capture_output=True)
    assert done.returncode == 0 and ascii("Bärchen")[1:-1].encode() in done.stdout, done.stderr
    (root / "zoo" / "classes.txt").write_bytes("ant Ameise\nbee Bärchen\n".encode("latin-1"))
    with pytest.raises(DataError, match="classes.txt: cannot be read as UTF-8"): load("zoo", root=root)


def test_a_path_stays_here(root):
    paint(root / "other" / "zoo" / "train" / "ant" / "0.png")
    names = [public_name(f"folder:{at}") for at in (root / "zoo", root / "other" / "zoo")]
    assert len(set(names)) == 2 and all(n.startswith("folder:zoo@") and str(root) not in n for n in names)
    assert load(f"folder:{root}/zoo", root=root).name == f"{names[0]}/train"
    assert not [p for p in (root / "cache").rglob("*") if p.is_file() and str(root).encode() in p.read_bytes()]
    with pytest.raises(DataError, match="give the path again"): load(names[0], root=root)


def test_other_images_have_other_stored_results(root):
    "What was kept for some images is not given for others, however these were made."
    images = load("zoo", root=root)
    def measure(images): return {"mean": images.pixels.double().mean().item(), "labels": images.labels.sum().item()}
    def kept(images): return cached(measure, {"images": images}, lambda: measure(images))
    noise = torch.full_like(images.pixels, 9)
    for some in (images, replace(images, pixels=noise), replace(images, labels=1 - images.labels), images[1:],
                 replace(images[1:], pixels=noise[1:]), replace(images.to("cpu"), pixels=noise + 1),
                 Images.from_arrays(noise, images.labels * 0)):
        assert kept(some) == kept(some) == measure(some)


def test_the_fingerprint_is_computed_once(root, monkeypatch):
    images = replace(load("zoo", root=root), name="mine")
    calls, digest = [], data._fingerprint
    monkeypatch.setattr(data, "_fingerprint", lambda *args: calls.append(1) or digest(*args))
    assert len({images.fingerprint for _ in range(5)} | {images.to("cpu").fingerprint}) == 1 and calls == [1]
    assert len(images[:3].fingerprint) == 16 and calls == [1]
    pickled = pickle.loads(pickle.dumps(images))
    assert pickled.fingerprint == images.fingerprint and calls == [1]


def test_part_of_cifar100_does_not_pass_for_it(tmp_path):
    for i in range(2): paint(tmp_path / "cifar100-20c" / "train" / "ab"[i] / f"{i}.png", seed=i)
    for options in ({}, {"classes": [0]}):
        with pytest.raises(DataError, match="cifar100 is not there.*cifar100-20c is the name"):
            load("cifar100", root=tmp_path, **options)
    assert not is_there("cifar100", root=tmp_path) and load("cifar100-20c", root=tmp_path).name == "cifar100-20c/train"


def test_constant_channel(root):
    images = load("zoo", root=root)
    grey = images.pixels.clone()
    for value in (0, 77, 255):
        grey[:, 1] = value
        mean, std = replace(images, pixels=grey).mean_std()
        assert std[1] == 1 and ((grey[:, 1] / 255 - mean[1]) / std[1]).abs().max() < 1e-6


def test_every_class_has_a_chance():
    "200 classes of 5 images each, 100 images: ties are broken by the seed."
    images = Images.from_arrays(np.zeros((1000, 1, 2, 2), np.uint8), np.arange(1000) % 200)
    seen = [set(images.sample(100, seed).labels.tolist()) for seed in range(8)]
    assert all(len(s) == 100 for s in seen) and len(set.union(*seen)) > 190 and seen[0] != seen[1]
    rest, held = images.split(0.1, seed=3)
    assert held.labels.bincount(minlength=200).max() == 1 and set(held.labels.tolist()) != set(range(100))


def test_official_ids(root):
    (root / "zoo" / "classes.txt").write_text("30 ant\n4 bee\n", "utf-8")
    assert load("zoo", root=root).classes == ("bee", "ant")
    ants = load("zoo", root=root, classes=[30])
    assert ants.classes == ("ant",) and ants.labels.tolist() == [0] * 4
    for wrong in ([5], [30, 30], []):
        with pytest.raises(DataError, match=r"\[4, 30\]"): load("zoo", root=root, classes=wrong)
    (root / "zoo" / "classes.txt").write_text("30 ant\n4 bee\n5 cat\n", "utf-8")
    with pytest.raises(DataError, match="cat"): load("zoo", root=root)


def test_names_that_are_not_there(root):
    for name in ("nope", "../zoo", "zoo/train", "cache"):
        with pytest.raises(DataError, match="Known: shapes.*zoo"): load(name, root=root)
    for name in ("cifar10", "cifar100", "stl10", "mnist"):
        with pytest.raises(DataError, match=f"make data.*sslnb data get {name}.*download=True"): load(name, root=root)
    with pytest.raises(DataError, match="no .*caltech101.*`make data` unpacks it"): load("caltech101", root=root)
    with pytest.raises(DataError, match="is not there: .*`make data` unpacks it"): load("tiny-imagenet-20c", root=root)
    with pytest.raises(DataError, match="is not there: .*data/README.md"): load("imagenet100", root=root)
    with pytest.raises(DataError, match="PATH"): load(f"folder:{root}/nope", root=root)


@pytest.mark.parametrize("given, told", [
    (dict(name=None), "None names no set"), (dict(name=3), "3 names no set"), (dict(size=1.5), "size=1.5: a whole"),
    (dict(size="32"), "size='32': a whole"), (dict(size=(32, 32)), r"size=\(32, 32\): a whole"),
    (dict(classes=3), r"classes=3: give a list of ids, such as \[0\]")])
def test_what_is_of_another_type_is_named(root, given, told):
    with pytest.raises(DataError, match=told): load(**{"name": "zoo", "root": root} | given)
    assert load("zoo", root=root, size=np.int64(8)).pixels.shape[-1] == 8


def test_no_part_of_an_image_is_drawn(root):
    with pytest.raises(DataError, match="cannot draw 1.5 of the 8 images"): load("zoo", root=root).at_most(1.5)


def test_changed_tree(root):
    first = load("zoo", root=root).fingerprint
    paint(root / "zoo" / "train" / "ant" / "0.png", seed=99)
    second = load("zoo", root=root).fingerprint
    paint(root / "zoo" / "train" / "ant" / "new.png")
    third = load("zoo", root=root)
    assert len({first, second, third.fingerprint}) == 3 and len(third) == 9


def test_a_file_of_the_same_size_written_in_place_is_noticed(root):
    "Its folder's time does not change: only a look at each file shows it."
    file = root / "zoo" / "train" / "ant" / "0.bmp"
    paint(file, seed=1)
    first, before, folder = load("zoo", root=root).fingerprint, file.stat(), file.parent.stat()
    paint(file, seed=2)
    assert file.stat().st_size == before.st_size and file.parent.stat().st_mtime_ns == folder.st_mtime_ns
    assert load("zoo", root=root).fingerprint != first


def truncate(place): os.truncate(place / "pixels.npy", 1000)
def empty(place): os.truncate(place / "pixels.npy", 0)
def missing(place): (place / "pixels.npy").unlink()
def other_labels(place): np.save(place / "labels.npy", np.zeros(8, np.int64))
def other_shape(place): np.save(place / "pixels.npy", np.load(place / "pixels.npy").reshape(8, 3, 8, 32))
def half_meta(place): os.truncate(place / "meta.json", 20)
def other_meta(place): (place / "meta.json").write_text("[1]", "utf-8")
def flip(place):
    with open(place / "pixels.npy", "r+b") as f:
        f.seek(-100, os.SEEK_END)
        byte = f.read(1)[0]
        f.seek(-100, os.SEEK_END)
        f.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("damage", [truncate, empty, missing, flip, other_labels, other_shape, half_meta,
                                    other_meta])
def test_damaged_cache(root, damage):
    before = load("zoo", root=root)
    damage(root / "cache" / "zoo-train")
    with pytest.warns(UserWarning, match="zoo-train: damaged"): after = load("zoo", root=root)
    assert after.fingerprint == before.fingerprint and after.labels.tolist() == [0] * 4 + [1] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("zoo", root=root)


def test_a_set_is_verified_once_and_again_when_its_files_are_others(root, monkeypatch):
    load("zoo", root=root)
    seen = []
    monkeypatch.setattr(data, "_fingerprint", lambda *_: seen.append(1) or "other")
    assert len(load("zoo", root=root)) == 8 and not seen
    os.utime(root / "cache" / "zoo-train" / "pixels.npy")
    with pytest.warns(UserWarning, match="does not fit"): load("zoo", root=root)  # and it is decoded again
    assert seen


def slow_load(root, log, seconds):
    "Load with a slow decoder that logs who decodes; answers with the fingerprint."
    decode = data._decode
    def slow(path):
        time.sleep(seconds)
        with open(log, "a", encoding="utf-8") as f: f.write(f"{os.getpid()}\n")
        return decode(path)
    data._decode = slow
    Path(f"{log}.{os.getpid()}").write_text(load("zoo", root=root).fingerprint, "utf-8")


def test_kill_while_decoding(root, tmp_path):
    log = tmp_path / "log"
    process = fork.Process(target=slow_load, args=(root, log, 0.5))
    process.start()
    part = root / "cache" / ".zoo-train.part"
    while not log.exists(): time.sleep(0.01)
    assert part.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert part.exists() and not (root / "cache" / "zoo-train").exists()
    assert len(load("zoo", root=root)) == 8 and not part.exists()


def test_kill_at_any_moment(root, tmp_path):
    "Killed after 0, 4, 8, … ms: what is left is a whole cache or none."
    expected = load("zoo", root=root).fingerprint
    for i in range(8):
        paint(root / "zoo" / "train" / "ant" / "0.png", seed=0)  # a new time: the cache is stale
        process = fork.Process(target=slow_load, args=(root, tmp_path / "log", 0))
        process.start()
        time.sleep(0.004 * i)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load("zoo", root=root).fingerprint == expected


def test_two_processes_build_once(root, tmp_path):
    log = tmp_path / "log"
    both = [fork.Process(target=slow_load, args=(root, log, 0.05)) for _ in range(2)]
    for process in both: process.start()
    for process in both: process.join()
    answers = {Path(f"{log}.{process.pid}").read_text("utf-8") for process in both}
    assert answers == {load("zoo", root=root).fingerprint}
    assert len(set(log.read_text("utf-8").split())) == 1  # the other one waited


def test_failed_build_spares_the_old_cache_of_another_split(root):
    load("zoo", "test", root=root)
    (root / "zoo" / "train" / "ant" / "0.png").write_bytes(b"")
    with pytest.raises(DataError): load("zoo", root=root)
    assert len(load("zoo", "test", root=root)) == 4
    assert not list((root / "cache").glob(".*.part"))


def mnist(root, images=30, labels=30, highest=9):
    "MNIST-like idx files."
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        arrays = {"images-idx3": np.zeros((images, 28, 28)), "labels-idx1": np.arange(labels) % (highest + 1)}
        for what, a in arrays.items():
            head = bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">i4").tobytes()
            (raw / f"{part}-{what}-ubyte").write_bytes(head + a.astype(np.uint8).tobytes())
    return raw


def test_mnist_files(tmp_path):
    raw = mnist(tmp_path)
    assert load("mnist", "test", root=tmp_path).pixels.shape == (30, 1, 28, 28)
    with pytest.raises(DataError, match="train, test"): load("mnist", "unlabeled", root=tmp_path)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        whole = (raw / name).read_bytes()
        for keep in (0, 3, 12, len(whole) - 1):
            (raw / name).write_bytes(whole[:keep])
            with pytest.raises(DataError, match=name): load("mnist", root=tmp_path)
        (raw / name).write_bytes(whole)
    assert len(load("mnist", root=tmp_path)) == 30


def test_mnist_labels(tmp_path):
    mnist(tmp_path / "few", labels=29)
    with pytest.raises(DataError, match="30 train images but 29 labels"): load("mnist", root=tmp_path / "few")
    mnist(tmp_path / "high", highest=10)
    with pytest.raises(DataError, match="image 10 has label 10"): load("mnist", root=tmp_path / "high")
    assert no_cache(tmp_path / "high")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_archive_without_its_check_sum(tmp_path, name):
    sub = data.ARCHIVES[name][1]
    (tmp_path / sub).mkdir()
    (tmp_path / sub / "data_batch_1").write_bytes(b"half")
    with pytest.raises(DataError, match=f"{sub}.*damaged.*download=True"): load(name, root=tmp_path)
    assert no_cache(tmp_path)


def test_archive_layouts(tmp_path, monkeypatch):
    "Files made like the published ones (the check of their sums switched off) give the images they hold."
    for module in ("cifar", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *args: True)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    for sub, labels, part, meta, names in (
            ("cifar-10-batches-py", "labels", "test_batch", "batches.meta", "label_names"),
            ("cifar-100-python", "fine_labels", "test", "meta", "fine_label_names")):
        (tmp_path / sub).mkdir()
        content = {"data": pixels.reshape(10, -1), labels: list(range(10)), "filenames": list("abcdefghij")}
        (tmp_path / sub / part).write_bytes(pickle.dumps(content))
        (tmp_path / sub / meta).write_bytes(pickle.dumps({names: [f"class {i}" for i in range(10)]}))
    stl = tmp_path / "stl10_binary"
    stl.mkdir()
    large = np.random.default_rng(0).integers(0, 256, (10, 3, 96, 96), dtype=np.uint8)
    for part in ("test_X", "unlabeled_X"): large.transpose(0, 1, 3, 2).tofile(stl / f"{part}.bin")
    np.arange(1, 11, dtype=np.uint8).tofile(stl / "test_y.bin")
    (stl / "class_names.txt").write_text("\n".join(f"class {i}" for i in range(10)), "utf-8")

    for name, split, expected in (("cifar10", "test", pixels), ("cifar100", "test", pixels),
                                  ("stl10", "test", large), ("stl10", "unlabeled", large)):
        images = load(name, split, root=tmp_path)
        assert np.array_equal(images.pixels, expected) and images.classes[3] == "class 3"
        assert images.labels.tolist() == (list(range(10)) if split == "test" else [-1] * 10)
    assert load("cifar100", "test", root=tmp_path, classes=[7, 2]).classes == ("class 7", "class 2")


def cifar_archive(place, pixels, labels, files, classes, batches):
    "Files like those of CIFAR's archive, for each of the `batches` (name -> which images)."
    place.mkdir(parents=True)
    for batch, some in batches.items():
        content = {"data": pixels[some].reshape(len(pixels[some]), -1), "labels": labels[some].tolist(),
                   "fine_labels": labels[some].tolist(), "filenames": files[some]}
        (place / batch).write_bytes(pickle.dumps(content))
    for meta in ("meta", "batches.meta"):
        (place / meta).write_bytes(pickle.dumps({"label_names": classes, "fine_label_names": classes}))


def stl_archive(place, pixels, labels, classes):
    "Files like those of STL-10's archive."
    place.mkdir(parents=True)
    pixels.transpose(0, 1, 3, 2).tofile(place / "train_X.bin")
    (labels + 1).astype(np.uint8).tofile(place / "train_y.bin")
    (place / "class_names.txt").write_text("\n".join(classes), "utf-8")


@pytest.mark.parametrize("name,k", [("cifar10", 10), ("cifar100-20c", 100), ("stl10-subset", 2)])
def test_an_archive_and_a_folder_of_its_files_are_one_set(tmp_path, monkeypatch, name, k):
    "Else nothing that was trained on the one would be found with the other."
    for module in ("cifar", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *args: True)
    monkeypatch.setattr(data, "_of_stl10", lambda split: np.array({"train": [3, 1, 4], "test": [0, 5]}[split]))
    draw, side = np.random.default_rng(0), 96 if name == "stl10-subset" else 32
    pixels, labels = draw.integers(0, 256, (200, 3, side, side), dtype=np.uint8), np.arange(200) % k
    files, classes = [f"{i:04}.png" for i in draw.permutation(200)], [f"class {c:02}" for c in range(k)]
    tree, archive, whole = tmp_path / "tree", tmp_path / "archive", slice(None)
    if name == "cifar10":
        batches = {f"data_batch_{b + 1}": slice(40 * b, 40 * b + 40) for b in range(5)} | {"test_batch": whole}
        cifar_archive(archive / "cifar-10-batches-py", pixels, labels, files, classes, batches)
    elif name == "cifar100-20c":
        both = {"train": whole, "test": whole}
        cifar_archive(archive / "cifar-100-python", pixels, labels, files, classes, both)
    else:
        files = [f"{i:04}.png" for i in range(200)]  # its images have no names but their places
        stl_archive(archive / "stl10_binary", pixels, labels, classes)

    ids = data.CIFAR100_20C if name == "cifar100-20c" else list(range(k))
    for split in ("train", "test"):
        members = data._of_stl10(split) if name == "stl10-subset" else range(200)
        for i in (i for i in members if labels[i] in ids):
            folder = tree / name / split / classes[labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i].transpose(1, 2, 0)).save(folder / files[i])
    (tree / name / "classes.txt").write_text("\n".join(f"{c} {classes[c]}" for c in ids), "utf-8")
    for split, some in product(("train", "test"), (None, ids[1:2])):
        one, other = (load(name, split, root=root, classes=some) for root in (tree, archive))
        assert one.fingerprint == other.fingerprint and len(one) > 0
        assert one.classes == other.classes and torch.equal(one.labels, other.labels)


def test_failed_download(tmp_path, monkeypatch):
    def broken(*args, **options): raise OSError("no network")
    monkeypatch.setitem(data.ARCHIVES, "cifar10", (broken, "cifar-10-batches-py"))
    with pytest.raises(DataError, match="cifar10 could not be downloaded.*no network"):
        load("cifar10", root=tmp_path, download=True)


def pack(path: Path, names):
    "A zip of small text files."
    with zipfile.ZipFile(path, "w") as z:
        for name in names: z.writestr(name, name)


def test_unpack(tmp_path, capsys):
    script = runpy.run_path(str(ROOT / "data" / "unpack.py"))
    packs, dest = tmp_path / "packs", tmp_path / "dest"
    packs.mkdir(), dest.mkdir()
    script["main"](packs, dest)
    assert "nothing to unpack" in capsys.readouterr().out
    pack(packs / "stl10-subset.zip", ["train/a/0.webp", "test/a/1.webp"])
    pack(packs / "cifar10-test.zip", ["test/a/0.webp"])  # two of its three packs are missing
    digest = hashlib.sha256((packs / "stl10-subset.zip").read_bytes()).hexdigest()
    (packs / "SHA256SUMS").write_text(f"{digest}  stl10-subset.zip\n", "utf-8")
    script["main"](packs, dest)
    assert sorted(p.name for p in dest.iterdir()) == ["stl10-subset"]
    assert (dest / "stl10-subset" / "train" / "a" / "0.webp").exists()
    script["main"](packs, dest)
    assert "already in" in capsys.readouterr().out
    pack(packs / "cifar100-20c.zip", ["train/a/0.webp"])
    with pytest.raises(SystemExit, match="cifar100-20c.zip is damaged"): script["main"](packs, dest)
    assert sorted(p.name for p in dest.iterdir()) == ["stl10-subset"]


def test_what_is_unpacked_of_caltech101_is_what_torchvision_reads(tmp_path):
    packed = tmp_path / "caltech101-64.zip"
    pack(packed, [f"101_ObjectCategories/{c}/image_0001.jpg" for c in ("ant", "crab")])
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  {packed.name}\n", "utf-8")
    runpy.run_path(str(ROOT / "data" / "unpack.py"))["main"](tmp_path, tmp_path / "sets")
    found = Caltech101(tmp_path / "sets")
    assert found.categories == ["ant", "crab"] and len(found) == 2


def test_unpack_into_the_data_folder(tmp_path):
    "`make data` puts the sets where `load` looks, and sweeps what a process that was killed left."
    packs, dest = tmp_path / "packs", tmp_path / "disk" / "sets"
    packs.mkdir()
    pack(packs / "stl10-subset.zip", ["train/a/0.webp"])
    digest = hashlib.sha256((packs / "stl10-subset.zip").read_bytes()).hexdigest()
    (packs / "SHA256SUMS").write_text(f"{digest}  stl10-subset.zip\n", "utf-8")
    left = dest / ".stl10-subset.unpacking-x"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    script = [sys.executable, ROOT / "data" / "unpack.py", packs]
    run = partial(subprocess.run, script, capture_output=True, encoding="utf-8")
    done = run(env=os.environ | {"SSLNB_DATA": str(dest)})
    assert done.returncode == 0 and str(dest) in done.stdout
    assert [p.name for p in dest.iterdir()] == ["stl10-subset"]
    (tmp_path / "file").write_text("", "utf-8")
    done = run(env=os.environ | {"SSLNB_DATA": str(tmp_path / "file")})
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "file" in done.stderr


REAL = [  # counts and train means as measured on the packs that `make data` unpacks
    ("cifar10", 50_000, 10_000, 10, (.49140, .48216, .44653), (.24703, .24349, .26159)),
    ("cifar100-20c", 10_000, 2_000, 20, (.49387, .46463, .41904), None),
    ("mnist", 60_000, 10_000, 10, (.13066,), (.30811,)),
    ("stl10-subset", 1_000, 1_000, 10, (.44949, .44125, .40967), None),
    ("tiny-imagenet-20c", 5_000, 1_000, 20, (.47544, .44588, .39460), None)]


@pytest.mark.parametrize("name,train,test,k,mean,std", REAL, ids=[row[0] for row in REAL])
def test_real_set(name, train, test, k, mean, std):
    place = ROOT / "data" / ("MNIST" if name == "mnist" else name)
    if not place.exists(): pytest.skip(f"no {place}: run `make data`")
    images, held = load(name, root=ROOT / "data"), load(name, "test", root=ROOT / "data")
    assert (len(images), len(held), images.n_classes) == (train, test, k) and held.classes == images.classes
    if name != "mnist": assert images.labels.bincount().tolist() == [train // k] * k
    found = images.mean_std()
    assert np.allclose(found[0], mean, atol=6e-6) and (std is None or np.allclose(found[1], std, atol=6e-6))


@pytest.mark.filterwarnings("ignore:.*are outlines")
def test_real_caltech101():
    if not (ROOT / "data" / "caltech101").exists(): pytest.skip("run `make data`")
    train, val, test = load_parts("caltech101", None, root=ROOT / "data")
    assert [set(part.labels.bincount().tolist()) for part in (train, val)] == [{24}, {6}]
    assert (len(test), test.n_classes, test.pixels.shape[1:]) == (5_647, 101, (3, 64, 64))
    assert test.labels.bincount().min() == 1 and test.classes[:5] == ("Faces", "Faces_easy", "Leopards", "Motorbikes",
                                                                    "accordion")


def test_cifar_classes():
    root = ROOT / "data"
    if not (root / "cifar10").exists() or not (root / "cifar100-20c").exists(): pytest.skip("run `make data`")
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert load("cifar10", "test", root=root).classes == tuple(names.split())
    task = load("cifar100-20c", "test", root=root, classes=[95, 0, 62])
    assert task.classes == ("whale", "apple", "poppy") and task.labels.bincount().tolist() == [100] * 3
