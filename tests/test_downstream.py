"Each downstream set, made of a few images in its own layout of files: parts, labels, damage, download."
import json, pickle, shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from sslnb import data
from sslnb.core import ROOT
from sslnb.data import LISTED, DataError, is_there, load
from sslnb.downstream import DOWNSTREAM, load_parts

ALL = "aircraft caltech101 cars cifar10 cifar100 dtd flowers food pets sun397 voc2007".split()


class Made:
    "A made set: photographs of one colour each, by which they are told apart, and what should be read of them."

    def __init__(self, root): self.root, self.files, self.labels, self.splits = root, [], [], {}

    def colour(self, label, split):
        i = len(self.labels)
        self.labels.append(label)
        self.splits.setdefault(split, []).append(i)
        return 8 * (i % 30), 8 * (i // 30), 100

    def paint(self, path, label, split):
        "One more photograph; they differ in size."
        colour, i = self.colour(label, split), len(self.labels)
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9 + i % 5, 8 + i % 3), colour).save(file)
        self.files.append(file)

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, "utf-8")


def numbers(images):
    "Which photographs these are."
    red, green = images.pixels[:, 0, 4, 4].double(), images.pixels[:, 1, 4, 4].double()
    return ((red / 8).round() + 30 * (green / 8).round()).int().tolist()


def each(splits, n=5, classes=(0, 1, 2)):
    "(split, class, number of the image in the class)."
    return [(split, c, i) for s, split in enumerate(splits) for c in classes for i in range(n * s, n * s + n)]


def aircraft(made):
    base, names = "fgvc-aircraft-2013b/data", ["707-320", "Boeing 717", "DC-3"]
    made.write(f"{base}/variants.txt", "\n".join(names) + "\n")
    lines = {}
    for split, c, i in each(("train", "val", "test")):
        made.paint(f"{base}/images/{c}00{i:04d}.jpg", c, split)
        lines.setdefault(split, []).append(f"{c}00{i:04d} {names[c]}\n")
    for split in lines: made.write(f"{base}/images_variant_{split}.txt", "".join(lines[split]))
    return names


def caltech101(made):
    names = ["Faces", "ant", "crab"]
    for _, c, i in each(("all",), 10):
        made.paint(f"caltech101/101_ObjectCategories/{names[c]}/image_{i + 1:04d}.jpg", c, "all")
    made.write("caltech101/101_ObjectCategories/BACKGROUND_Google/tmp", "not a class")
    return names


def cars(made):
    names, base = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"], "stanford_cars"
    rows = {"train": [], "test": []}
    for split, c, _i in each(rows):
        file = f"{len(rows[split]) + 1:05d}.jpg"
        made.paint(f"{base}/cars_{split}/{file}", c, split)
        rows[split].append((file, np.uint8(c + 1), np.uint8(9)))
    made.write(f"{base}/devkit/README.txt", "")
    annotations = {split: {"annotations": np.array(r, dtype=[("fname", object), ("class", object),
                                                             ("bbox_x1", object)])}
                   for split, r in rows.items()}
    savemat(made.root / base / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object)})
    savemat(made.root / base / "devkit" / "cars_train_annos.mat", annotations["train"])
    savemat(made.root / base / "cars_test_annos_withlabels.mat", annotations["test"])
    return names


def dtd(made):
    names, lines = ["banded", "blotchy", "braided"], {}
    for split, c, i in each(("train", "val", "test")):
        made.paint(f"dtd/dtd/images/{names[c]}/{names[c]}_{i:04d}.jpg", c, split)
        lines.setdefault(split, []).append(f"{names[c]}/{names[c]}_{i:04d}.jpg\n")
    for split in lines: made.write(f"dtd/dtd/labels/{split}1.txt", "".join(lines[split]))
    return names


def flowers(made):
    for split, c, _i in each(("train", "val", "test"), 2, classes=(0, 50, 101)):
        made.paint(f"flowers-102/jpg/image_{len(made.files) + 1:05d}.jpg", c, split)
    ids = {key: np.array(made.splits[split]) + 1
           for key, split in (("trnid", "train"), ("valid", "val"), ("tstid", "test"))}
    savemat(made.root / "flowers-102" / "setid.mat", ids)
    savemat(made.root / "flowers-102" / "imagelabels.mat", {"labels": np.array(made.labels) + 1})
    return datasets.Flowers102.classes


def food(made):
    names, lists = ["apple_pie", "baklava", "waffles"], {"train": {}, "test": {}}
    for split, c, i in each(lists):
        made.paint(f"food-101/images/{names[c]}/{1000 + i}.jpg", c, split)
        lists[split].setdefault(names[c], []).append(f"{names[c]}/{1000 + i}")
    for split in lists: made.write(f"food-101/meta/{split}.json", json.dumps(lists[split]))
    return names


def pets(made):
    names, lines = ["Abyssinian", "american_bulldog", "Bombay"], {"train": [], "test": []}
    for split, c, i in each(lines):
        made.paint(f"oxford-iiit-pet/images/{names[c]}_{i}.jpg", c, split)
        lines[split].append(f"{names[c]}_{i} {c + 1} 1 1\n")
    made.write("oxford-iiit-pet/annotations/trainval.txt", "".join(lines["train"]))
    made.write("oxford-iiit-pet/annotations/test.txt", "".join(lines["test"]))
    return ["Abyssinian", "American Bulldog", "Bombay"]


def sun397(made):
    names = ["abbey", "church/indoor", "church/outdoor"]
    made.write("SUN397/ClassName.txt", "".join(f"/{name[0]}/{name}\n" for name in names))
    for _, c, i in each(("all",), 10):
        made.paint(f"SUN397/{names[c][0]}/{names[c]}/sun_{'qwertzuiop'[i]}.jpg", c, "all")
    return names


def things(*pairs):
    "A Pascal VOC annotation of (name, difficult); a person has a head, which is no object of its own."
    head = "<part><name>head</name></part>"
    return "<annotation><folder>VOC2007</folder>" + "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult>{head}</object>"
        for name, hard in pairs) + "</annotation>"


def voc2007(made):
    base = "VOCdevkit/VOC2007"
    shown = [(("dog", 0), ("person", 1)), (("person", 0), ("person", 1), ("dog", 1)), ()]
    expected = [{11: 1, 14: -1}, {11: -1, 14: 1}, {}]
    for s, split in enumerate(("train", "val", "test")):
        for i, (what, row) in enumerate(zip(shown, expected)):
            made.paint(f"{base}/JPEGImages/{s}0000{i}.jpg", [row.get(c, 0) for c in range(20)], split)
            made.write(f"{base}/Annotations/{s}0000{i}.xml", things(*what))
        made.write(f"{base}/ImageSets/Main/{split}.txt", "".join(f"{s}0000{i}\n" for i in range(3)))
    return data.VOC


def cifar(made, folder, parts, meta, key, names):
    "Batches of CIFAR, three images of each of some classes to a batch."
    for part, split in parts:
        labels = list(range(0, len(names), len(names) // 10)) * 3
        colours = np.array([made.colour(c, split) for c in labels], np.uint8)
        made.write(f"{folder}/{part}", "")
        batch = {"data": colours.repeat(1024, 1).reshape(len(labels), -1), key: labels,
                 "filenames": [f"{part}_{i:02}.png" for i in range(len(labels))]}
        (made.root / folder / part).write_bytes(pickle.dumps(batch))
    (made.root / folder / meta[0]).write_bytes(pickle.dumps({meta[1]: names}))
    return names


def cifar10(made):
    parts = [(f"data_batch_{i}", "train") for i in range(1, 6)] + [("test_batch", "test")]
    names = [f"class {i}" for i in range(10)]
    return cifar(made, "cifar-10-batches-py", parts, ("batches.meta", "label_names"), "labels", names)


def cifar100(made):
    names = [f"class {i}" for i in range(100)]
    return cifar(made, "cifar-100-python", [("train", "train"), ("test", "test")], ("meta", "fine_label_names"),
                 "fine_labels", names)


MADE = {f.__name__: f for f in (aircraft, caltech101, cars, cifar10, cifar100, dtd, flowers, food, pets, sun397,
                                voc2007)}


@pytest.fixture
def make(tmp_path, monkeypatch):
    "make(name): the set of that name, under the test's folder, and the real one's numbers changed to its own."
    for module in ("cifar", "flowers102"):  # the made lists cannot have the sums of the real ones
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *args: True)

    def of(name):
        made = Made(tmp_path)
        made.classes = tuple(MADE[name](made))
        whole = DOWNSTREAM[name]._replace(classes=len(made.classes), images=len(made.labels))
        monkeypatch.setitem(DOWNSTREAM, name, whole)
        if name == "caltech101":  # 8 of each class instead of 30, of which more than are made here
            monkeypatch.setitem(LISTED, name, LISTED[name]._replace(each=8))
        return made
    return of


def test_the_table_is_complete():
    assert set(DOWNSTREAM) == set(MADE) == set(ALL) == set(LISTED) | {"cifar10", "cifar100"}
    for name, lists in LISTED.items():
        assert DOWNSTREAM[name].splits == ("none" if lists.asked["train"] == () else ", ".join(lists.asked))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ALL)
def test_parts(name, make):
    made = make(name)
    parts = load_parts(name, 8, root=made.root)
    train, val, test = map(numbers, parts)
    assert sorted(train + val + test) == list(range(len(made.labels)))  # no overlap, nothing left out
    for part, found in zip(parts, (train, val, test)):
        assert part.pixels.shape[1:] == (3, 8, 8) and part.classes == made.classes
        assert part.labels.tolist() == [made.labels[i] for i in found]
    if "val" in made.splits: assert (set(train), set(val)) == (set(made.splits["train"]), set(made.splits["val"]))
    else: assert len(val) == round(0.2 * len(train + val))
    if "all" in made.splits: assert len(test) == round(0.2 * len(made.labels))
    else: assert set(test) == set(made.splits["test"])
    assert [part.name for part in parts] == [f"{name}/{part}" for part in ("train", "val", "test")]


@pytest.mark.parametrize("name", ALL)
def test_seeds(name, make):
    made = make(name)
    first, again, other = (load_parts(name, 8, seed, root=made.root) for seed in (0, 0, 1))
    assert [part.fingerprint for part in first] == [part.fingerprint for part in again]
    assert numbers(first.test) == numbers(other.test)
    assert (numbers(first.val) == numbers(other.val)) == ("val" in made.splits)
    if "val" not in made.splits:  # as fair as can be
        n, k = len(first.train) + len(first.val), first.train.n_classes
        counts = torch.cat([first.train.labels, first.val.labels]).bincount(minlength=k)
        assert ((first.val.labels.bincount(minlength=k) - counts * len(first.val) / n).abs() < 1).all()


@pytest.mark.parametrize("name", LISTED)
def test_damaged_image(name, make):
    made = make(name)
    for i in (0, -1):  # one of train (or of either), one of test
        whole = made.files[i].read_bytes()
        made.files[i].write_bytes(whole[:len(whole) // 2])
        with pytest.raises(DataError, match=f"{made.files[i].name}: cannot be read"):
            load_parts(name, 8, root=made.root)
        made.files[i].unlink()
        if i == -1 and "all" in made.splits:  # no list says that there was one more
            with pytest.warns(UserWarning, match="29 images are there, 30"): load_parts(name, 8, root=made.root)
        elif name != "sun397":
            with pytest.raises(DataError, match=r"not whole \(.*\.jpg"): load_parts(name, 8, root=made.root)
            assert not all(is_there(name, split, made.root) for split in ("train", "test"))
        made.files[i].write_bytes(whole)
    assert len(load_parts(name, 8, root=made.root)) == 3


@pytest.mark.parametrize("name", ALL)
def test_missing(name, make):
    made = make(name)
    assert is_there(name, root=made.root) and is_there(name, "test", made.root)
    with pytest.raises(DataError, match="no split 'extra'; it has: train,"): load(name, "extra", root=made.root)
    for folder in made.root.iterdir(): shutil.rmtree(folder)
    way = "README" if name == "cars" else f"load.'{name}', download=True. downloads it"
    with pytest.raises(DataError, match=f"{name} is not there.*{way}"): load_parts(name, 8, root=made.root)
    assert not is_there(name, root=made.root)


LISTS = {"aircraft": "data/variants.txt", "cars": "cars_test_annos_withlabels.mat", "dtd": "labels/test1.txt",
         "flowers": "setid.mat", "food": "meta/train.json", "pets": "annotations/trainval.txt",
         "sun397": "ClassName.txt", "voc2007": "ImageSets/Main/test.txt"}


@pytest.mark.parametrize("name", LISTS)
def test_missing_and_broken_list(name, make):
    made = make(name)
    file = made.root / LISTED[name].folder / LISTS[name]
    for damage in (lambda: file.write_bytes(b"half of\na"), file.unlink):
        damage()
        with pytest.raises(DataError, match="damaged or not whole"): load_parts(name, 8, root=made.root)
        assert not all(is_there(name, split, made.root) for split in ("train", "test"))


@pytest.mark.parametrize("name", ["caltech101", "dtd", "voc2007", "sun397"])
def test_an_archive_is_no_tree_of_splits(name, make):
    assert data._trees(make(name).root) == []


def test_changes_are_seen(make):
    made = make("pets")
    before = load("pets", size=8, root=made.root)
    lists = made.root / "oxford-iiit-pet" / "annotations" / "trainval.txt"
    lists.write_text(lists.read_text("utf-8").replace("Bombay_0 3", "Bombay_0 2"), "utf-8")
    after = load("pets", size=8, root=made.root)
    assert before.fingerprint != after.fingerprint and (before.labels != after.labels).sum() == 1
    lists.write_text(lists.read_text("utf-8").replace("Abyssinian_1", "X").replace("Bombay_1", "Abyssinian_1")
                     .replace("X", "Bombay_1"), "utf-8")
    swapped = load("pets", size=8, root=made.root)  # the same files and the same labels, but not together
    assert swapped.labels.tolist() == after.labels.tolist() and swapped.fingerprint != after.fingerprint
    Image.new("RGB", (9, 9)).save(made.files[0])
    assert load("pets", size=8, root=made.root).pixels[0].max() == 0


def test_caltech101_trains_on_as_many_of_each_class_and_tests_on_the_rest(make):
    made = make("caltech101")
    more = [made.root / f"caltech101/101_ObjectCategories/crab/image_{i:04d}.jpg" for i in range(11, 15)]
    for file in more: Image.new("RGB", (9, 9), (8, 100, 200)).save(file)
    train, test = (load("caltech101", split, root=made.root) for split in ("train", "test"))
    assert train.labels.bincount().tolist() == [8, 8, 8] and test.labels.bincount().tolist() == [2, 2, 6]
    assert train.pixels.shape[2:] == (64, 64) and "8×8" in repr(load("caltech101", size=8, root=made.root))
    shutil.rmtree(made.root / "cache")
    assert load("caltech101", root=made.root).fingerprint == train.fingerprint


def test_classes_that_are_outlines_are_named(make):
    made = make("caltech101")
    outline = Image.new("RGB", (40, 40))
    outline.paste((255, 255, 255), (20, 0, 22, 40))
    for file in made.files[10:20]: outline.save(file)
    with pytest.warns(UserWarning, match="caltech101/test: in this copy ant are outlines, not photographs"):
        load("caltech101", "test", root=made.root)


def test_the_order_of_the_disk_does_not_matter(make, monkeypatch):
    made, rglob = make("sun397"), Path.rglob
    first = load("sun397", size=8, root=made.root).fingerprint
    monkeypatch.setattr(Path, "rglob", lambda *args: reversed(list(rglob(*args))))
    assert load("sun397", size=8, root=made.root).fingerprint == first
    shutil.rmtree(made.root / "cache")
    assert load("sun397", size=8, root=made.root).fingerprint == first


def test_difficult_objects(make):
    made = make("voc2007")
    images = load("voc2007", size=8, root=made.root)
    dog, person = images.labels[:, data.VOC.index("dog")], images.labels[:, data.VOC.index("person")]
    assert dog.tolist() == [1, -1, 0] and person.tolist() == [-1, 1, 0]
    assert images.labels.abs().sum() == 4 and images.labels.dtype == torch.int64
    assert torch.equal(images.sample(2, seed=0).labels, images[data.stratified(images.labels, 2, 0)].labels)
    assert [len(part) for part in images.split(0.3, seed=0)] == [2, 1] and len(images.mean_std()) == 2
    with pytest.raises(DataError, match="no classes="): load("voc2007", size=8, root=made.root, classes=[1])


@pytest.mark.parametrize("text", ["<annotation><object>", "", things(("unicorn", 0))])
def test_broken_annotation(text, make):
    made = make("voc2007")
    made.write("VOCdevkit/VOC2007/Annotations/000001.xml", text)
    with pytest.raises(DataError, match="000001.xml: "): load("voc2007", size=8, root=made.root)


def test_part_of_a_set_is_not_the_set(make, monkeypatch, tmp_path):
    made = make("food")
    with monkeypatch.context() as m:
        m.setitem(DOWNSTREAM, "food", DOWNSTREAM["food"]._replace(classes=101))
        with pytest.raises(DataError, match="food/train does not have the 101 classes"):
            load_parts("food", 8, root=made.root)
    monkeypatch.setitem(DOWNSTREAM, "food", DOWNSTREAM["food"]._replace(images=101_000))
    with pytest.warns(UserWarning, match="30 images are there, 101,000 were published"):
        load_parts("food", 8, root=made.root)
    lists = made.root / "food-101" / "meta" / "test.json"
    lists.write_text(lists.read_text("utf-8").replace("waffles\":", "zebra\":"), "utf-8")
    with pytest.raises(DataError, match="food/test does not have"): load_parts("food", 8, root=made.root)
    with pytest.raises(DataError, match="no set 'shapes'.*aircraft.*voc2007"): load_parts("shapes", 8)


def test_download_is_whole_or_nothing(make, monkeypatch, tmp_path):
    made, asked = make("voc2007"), []
    folder = made.root / "VOCdevkit"
    folder.rename(made.root / "elsewhere")
    (tmp_path / ".voc2007.part" / "VOCdevkit" / "VOC2007").mkdir(parents=True)  # left by a process that was killed

    def broken(root, *args, download):
        (root / "VOCdevkit" / "VOC2007").mkdir(parents=True)
        raise OSError("connection lost")

    def works(root, *args, download=False):
        asked.append((*args, download))
        if download: shutil.copytree(made.root / "elsewhere", root / "VOCdevkit", dirs_exist_ok=True)
        return LISTED_VOC.maker(root, *args)

    LISTED_VOC = LISTED["voc2007"]
    monkeypatch.setitem(LISTED, "voc2007", LISTED_VOC._replace(maker=broken))
    with pytest.raises(DataError, match="voc2007 could not be downloaded.*connection lost"):
        load_parts("voc2007", 8, root=tmp_path, download=True)
    assert not folder.exists() and not (tmp_path / ".voc2007.part").exists() and not is_there("voc2007", root=tmp_path)
    monkeypatch.setitem(LISTED, "voc2007", LISTED_VOC._replace(maker=works))
    assert len(load_parts("voc2007", 8, root=tmp_path, download=True).test) == 3
    assert [a for a in asked if a[-1]] == [("2007", "train", True), ("2007", "test", True)]  # both of its archives


def test_cars_cannot_be_downloaded(tmp_path):
    with pytest.raises(DataError, match="cars could not be downloaded.*data/README.md"):
        load("cars", root=tmp_path, download=True)


def test_cifar100_here_is_a_part():
    if not (ROOT / "data" / "cifar100-20c").exists() or (ROOT / "data" / "cifar-100-python").exists():
        pytest.skip("run `make data`")
    with pytest.raises(DataError, match="cifar100-20c is the name of the set of 20"):
        load_parts("cifar100", None, root=ROOT / "data")
