"A set that is larger than memory: its pixels stay in the file, and only what a step looks at is read."
import json

import pytest

pytestmark = pytest.mark.slow

TRAIN = """
import json, resource, sys
import numpy as np, torch
from sslnb import data
from sslnb.train import TrainConfig, Training, resolve

def anonymous():
    "MB that belong to this process alone; pages of files, which the system may drop at any time, are not in it."
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

limit = int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # what the process may allocate; mapped files do not count
pixels = data._tensor(np.load(sys.argv[1], mmap_mode="r"))
images = data.Images(pixels, torch.arange(len(pixels)) % 100, tuple(map(str, range(100))), "made/train")
# what reads all of the file: see the other test
data.Images.mean_std = lambda self: (torch.full((3,), 0.5), torch.full((3,), 0.3))
data.Images.fingerprint = property(lambda self: "0" * 16)
config = TrainConfig(dataset="made", method=sys.argv[3], encoder=sys.argv[4], steps=3,
                     batch_size=int(sys.argv[5]), lr=1e-4)
before = anonymous()
training = Training(resolve(config, torch.device("cpu"), images), torch.device("cpu"))
for _ in range(3): training.take_step()
training.check_finite()
print(json.dumps({"added": anonymous() - before, "pixels": pixels.numel() / 2**20}))
"""

STATISTICS = """
import json, sys
import numpy as np, torch
from sslnb import data
from sslnb.models import features, encoder

def anonymous():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

pixels = data._tensor(np.load(sys.argv[1], mmap_mode="r"))
images = data.Images(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("it",), "made/train")
before = anonymous()
mean, std = images.mean_std()
assert len(images.fingerprint) == 16
print(json.dumps({"added": anonymous() - before, "mean": mean.tolist(), "pixels": pixels.numel() / 2**20}))
"""


def sparse(path, n, side):
    "A `.npy` file of `n` black images that takes no room on the disk."
    import numpy as np
    with open(path, "wb") as f:
        np.lib.format.write_array_header_1_0(f, dict(descr="|u1", fortran_order=False, shape=(n, 3, side, side)))
        f.truncate(f.tell() + n * 3 * side * side)
    return path


def told(process):
    out, err = process.communicate(timeout=120)
    assert process.poll() == 0, err[-2000:]
    return json.loads(out)


@pytest.mark.parametrize("method, encoder", [("mae", "vit_tiny"), ("simclr", "tiny")])
def test_thirty_gigabytes_of_images_train_in_two(tmp_path, forked, method, encoder):
    file = sparse(tmp_path / "pixels.npy", 200_000, 224)
    found = told(forked(TRAIN, file, 2048, method, encoder, 16))
    assert found["pixels"] > 28_000 and found["added"] < 700


def test_statistics_and_fingerprint_are_computed_in_pieces(tmp_path, forked):
    found = told(forked(STATISTICS, sparse(tmp_path / "pixels.npy", 2000, 224)))
    assert found["mean"] == [0, 0, 0] and found["pixels"] > 280 and found["added"] < 150
