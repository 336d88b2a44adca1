"Training under bad luck: killed, run twice at once, damaged on disk."
import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from sslnb import data, evaluate
from sslnb.core import SettingError
from sslnb.runs import CorruptFile, Run, load_tensors
from sslnb.train import TrainJob, TrainConfig, _find_or_train, load_encoder, pretrain, resolve, train_all

CONFIG = TrainConfig(dataset="shapes", method="simclr", encoder="tiny", steps=300, batch_size=16, lr=1e-3,
                        save_at=(0, 100), options={"hidden": 32, "out": 16})
CPU = torch.device("cpu")
TRAIN = """
import sys
from sslnb.core import from_json
from sslnb.train import TrainConfig, pretrain
pretrain(from_json(TrainConfig, sys.argv[1]), save_every=0)
"""


@pytest.fixture
def run():
    return Run(resolve(CONFIG, CPU)[0])


def as_json(run):
    from sslnb.core import to_json
    return to_json(run.config)


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def contents(run):
    return [load_tensors(run.model_file(s))[0] for s in run.config.save_at], run.history


def test_killed_twice_ends_bit_identical(run, python, tmp_path):
    for file in (run.state_file, run.model_file(100)):
        p = python(TRAIN, as_json(run))
        wait_for(file, p)
        os.kill(p.pid, signal.SIGKILL)
        assert p.wait() == -signal.SIGKILL and not run.provenance_file.exists()
    assert load_tensors(run.state_file)[1]["step"] >= 90  # it went on; it did not begin again
    p = python(TRAIN, as_json(run))
    assert p.wait() == 0, p.stderr.read()

    straight = Run(run.config, tmp_path / "straight")
    q = python(TRAIN.replace("save_every=0", f"store=__import__('pathlib').Path({str(tmp_path / 'straight')!r})"), as_json(run))
    assert q.wait() == 0, q.stderr.read()
    (encoders, history), (expected, expected_history) = contents(run), contents(straight)
    assert history.equals(expected_history) and len(history) == 300
    for a, b in zip(encoders, expected, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in b)


def test_two_processes_train_one_run(run, python):
    both = [python(TRAIN, as_json(run)) for _ in range(2)]
    said = sorted(p.communicate()[1].split("simclr on shapes: ")[-1].split(";")[0] for p in both)
    assert [p.returncode for p in both] == [0, 0]
    assert said == ["0 trained, 1 from the store", "1 trained, 0 from the store"]
    run.verify()


@pytest.mark.parametrize("damage", ["state", "encoder"])
def test_damaged_checkpoint_is_discarded_and_redone(damage, stop_at):
    config = replace(CONFIG, steps=30, save_at=(10,))
    whole = pretrain(config)
    expected = contents(whole)
    run = Run(whole.config, whole.folder.parent / "again")
    with pytest.raises(KeyboardInterrupt):  # an unfinished run: stopped after step 10
        _find_or_train(TrainJob(*resolve(config, CPU)), stop_at(10), CPU, store=run.folder.parent)
    os.truncate(run.state_file if damage == "state" else run.model_file(10), 200)
    with pytest.warns(UserWarning, match="starts again"): pretrain(config, store=run.folder.parent)
    assert contents(run)[1].equals(expected[1])
    assert all(torch.equal(a[k], b[k]) for a, b in zip(contents(run)[0], expected[0]) for k in b)


def test_a_finished_run_that_was_damaged_is_an_error_to_read_and_is_redone(run):
    config = replace(CONFIG, steps=10, save_at=())
    run = pretrain(config)
    os.truncate(run.model_file(10), 100)
    with pytest.raises(CorruptFile, match="model-000010"): run.verify()
    with pytest.warns(UserWarning, match="trained again"): pretrain(config)
    run.verify()


def test_interrupted_fine_tuning_ends_bit_identical(tmp_path, stop_at):
    start = load_encoder(pretrain(replace(CONFIG, steps=10, save_at=())), device=CPU)
    job = evaluate.fine_tuning(start, data.load("shapes"), 0.05, epochs=4, keep=(0, 2))
    straight, = train_all([job], store=tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt): _find_or_train(job, stop_at(10), CPU, store=tmp_path / "broken", save_every=0)
    broken, = train_all([job], store=tmp_path / "broken")
    (models, history), (expected, expected_history) = contents(broken), contents(straight)
    assert history.equals(expected_history) and len(history) == 24
    assert all(torch.equal(a[k], b[k]) for a, b in zip(models, expected, strict=True) for k in b)


def test_fine_tuning_from_another_encoder_is_another_run():
    first, second = (load_encoder(pretrain(replace(CONFIG, steps=10, save_at=(), seed=s)), device=CPU) for s in (0, 1))
    images = data.load("shapes")
    a, b = (evaluate.fine_tuning(e, images, 0.05, epochs=1) for e in (first, second))
    assert Run(a.config).hash != Run(b.config).hash and a.images.fingerprint == b.images.fingerprint
    with pytest.raises(SettingError, match="not the digest"): train_all([a._replace(start=second)])
