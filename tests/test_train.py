"Training under bad luck: killed, run twice at once, damaged on disk."
import multiprocessing
import os
import signal
import sys
import time
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from filelock import FileLock
from PIL import Image

from sslnb import core, data, evaluate, methods, train
from sslnb.core import SettingError
from sslnb.methods import METHODS, SupCE
from sslnb.runs import CorruptFile, Run, cached, load_tensors, noted, save_tensors
from sslnb.train import Diverged, TrainConfig, _find_or_train, load_encoder, pretrain, resolve, train_all

CONFIG = TrainConfig(dataset="shapes", method="simclr", encoder="tiny", steps=120, batch_size=16, lr=1e-3,
                     save_at=(0, 50), options={"hidden": 32, "out": 16})
CPU = torch.device("cpu")
TRAIN = """
import sys
from sslnb.core import from_json
from sslnb.train import TrainConfig, pretrain
pretrain(from_json(TrainConfig, sys.argv[1]), save_every=0)
"""


@pytest.fixture
def run():
    return Run(resolve(CONFIG, CPU).config)


def as_json(run):
    from sslnb.core import to_json
    return to_json(run.config)


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def contents(run):
    return [load_tensors(run.model_file(s))[0] for s in run.config.save_at], run.history


@pytest.mark.slow
def test_killed_twice_ends_bit_identical(run, forked, tmp_path):
    for file in (run.state_file, run.model_file(50)):
        p = forked(TRAIN, as_json(run))
        wait_for(file, p)
        os.kill(p.pid, signal.SIGKILL)
        assert p.wait() == -signal.SIGKILL and not run.provenance_file.exists()
    assert load_tensors(run.state_file)[1]["step"] >= 40  # it went on; it did not begin again
    p = forked(TRAIN, as_json(run))
    assert p.wait() == 0, p.communicate()[1]

    straight = pretrain(CONFIG, store=tmp_path / "straight")
    (encoders, history), (expected, expected_history) = contents(run), contents(straight)
    assert history.equals(expected_history) and len(history) == 120
    for a, b in zip(encoders, expected, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in b)


@pytest.mark.slow
def test_two_processes_train_one_run(run, forked):
    both = [forked(TRAIN, as_json(run)) for _ in range(2)]
    said = sorted(p.communicate()[1].split("simclr on shapes: ")[-1].split(";")[0] for p in both)
    assert [p.poll() for p in both] == [0, 0]
    assert said == ["0 trained, 1 from the store", "1 trained, 0 from the store"]
    run.verify()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["state", "encoder"])
def test_damaged_checkpoint_is_discarded_and_redone(damage, stop_at):
    config = replace(CONFIG, steps=30, save_at=(10,))
    whole = pretrain(config)
    expected = contents(whole)
    run = Run(whole.config, whole.folder.parent / "again")
    with pytest.raises(KeyboardInterrupt):  # an unfinished run: stopped after step 10
        _find_or_train(Run(whole.config, run.folder.parent, resolve(config, CPU)), stop_at(10), CPU)
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


@pytest.mark.slow
def test_interrupted_fine_tuning_ends_bit_identical(tmp_path, stop_at):
    start = load_encoder(pretrain(replace(CONFIG, steps=10, save_at=())), device=CPU)
    job = evaluate.fine_tuning(start, data.load("shapes"), 0.05, epochs=4, keep=(0, 2))
    straight, = train_all([job], store=tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        _find_or_train(Run(job.config, tmp_path / "broken", job), stop_at(10), CPU, save_every=0)
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


# Side by side

side_by_side = pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="only on a CPU of Linux")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads(run):
    return run.provenance["device"].split(", ")[1]


@side_by_side
def test_several_trainings_run_side_by_side_and_an_odd_one_with_all_threads(two_threads, monkeypatch, tmp_path, capsys):
    class Mine(SupCE):
        def loss(self, views, batch): return super().loss(views, batch)
    config = register(monkeypatch, Mine)  # what this process alone knows
    runs = train_all([replace(config, seed=s) for s in (0, 1, 1, 2)], CPU)
    assert [threads(run) for run in runs] == ["1 thread"] * 3 + ["2 threads"]
    assert "4 runs: 3 trained, 1 from the store" in capsys.readouterr().err
    train_all([replace(config, seed=s) for s in (0, 3, 4)], CPU)
    assert "3 runs: 2 trained, 1 from the store" in capsys.readouterr().err
    torch.set_num_threads(1)
    alone, = train_all([config], CPU, store=tmp_path / "alone")
    assert all(torch.equal(a[k], b[k]) for a, b in zip(contents(alone)[0], contents(runs[0])[0]) for k in a)


class Strange(UserWarning):
    def __init__(self, one, two): super().__init__(f"{one} and {two}")  # so it cannot be unpickled


def test_of_no_jobs_there_are_no_runs():
    assert train_all([]) == []


@side_by_side
def test_a_workers_warnings_come_while_it_trains_and_once(two_threads, monkeypatch):
    class Mine(SupCE):
        def loss(self, views, batch):
            warnings.warn(Strange("this", "that"))
            return super().loss(views, batch)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        train_all([replace(register(monkeypatch, Mine), seed=s) for s in (0, 1)], CPU)
    found = [w for w in told if str(w.message) == "this and that"]
    assert 1 <= len(found) <= 2 and found[0].filename == __file__  # not one a step


@side_by_side
def test_an_error_of_one_training_stops_the_others_and_is_raised_with_its_place(two_threads):
    with pytest.raises(Diverged, match="the loss is") as told:
        train_all([short(lr=1e30, optimizer="sgd", steps=30), replace(CONFIG, steps=100_000)], CPU)
    assert any("check_finite" in note for note in told.value.__notes__)
    assert not multiprocessing.active_children()
    assert all(run.is_finished for run in train_all([short(), short(seed=1)], CPU))


class Odd(Exception):
    def __init__(self, one, two): super().__init__(f"{one} and {two}")  # so it cannot be unpickled


@side_by_side
def test_an_error_that_cannot_be_sent_is_told(two_threads, monkeypatch):
    class Mine(SupCE):
        def loss(self, views, batch): raise Odd("this", "that")
    with pytest.raises(RuntimeError, match="Odd: this and that"):
        train_all([replace(register(monkeypatch, Mine), seed=s) for s in (0, 1)], CPU)


@side_by_side
def test_a_worker_that_dies_is_missed_and_the_same_command_goes_on(two_threads, monkeypatch, tmp_path):
    flag = str(tmp_path / "die once")
    open(flag, "w", encoding="utf-8").close()

    class Mine(SupCE):
        def loss(self, views, batch):
            if os.path.exists(flag):
                os.remove(flag)
                os.kill(os.getpid(), signal.SIGKILL)
            return super().loss(views, batch)
    config = register(monkeypatch, Mine)
    with pytest.raises(RuntimeError, match="ended .exit code -9; -9: killed"):
        train_all([replace(config, seed=s) for s in (0, 1)], CPU)
    assert all(run.is_finished for run in train_all([replace(config, seed=s) for s in (0, 1)], CPU))


@side_by_side
def test_an_interrupt_stops_all(two_threads, monkeypatch):
    monkeypatch.setattr(train, "_heard", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt): train_all([replace(CONFIG, steps=100_000, seed=s) for s in (0, 1)], CPU)
    assert not multiprocessing.active_children()


@side_by_side
@pytest.mark.slow
def test_workers_end_with_the_process_that_asked_for_them(forked, run):
    "Killed in the middle; the same command goes on, when the first ones' workers have left the locks."
    code = TRAIN.replace("pretrain(from_json(TrainConfig, sys.argv[1]), save_every=0)", """
import torch
from dataclasses import replace
from sslnb.train import train_all
torch.set_num_threads(2)
config = from_json(TrainConfig, sys.argv[1])
train_all([config, replace(config, seed=1)], save_every=0)""")
    p = forked(code, as_json(run))
    wait_for(run.state_file, p)
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    p = forked(code, as_json(run))
    assert p.wait() == 0, p.communicate()[1]
    assert "2 runs: 2 trained" in p.communicate()[1]


# Whose code made it, whose store is it

def short(**changes):
    return replace(CONFIG, **dict(steps=10, save_at=()) | changes)


def register(monkeypatch, cls):
    monkeypatch.setitem(METHODS, "mine", cls)
    return short(method="mine", options={})


def test_a_mended_method_is_trained_again(monkeypatch):
    class Mine(SupCE):
        def loss(self, views, batch): return 0 * super().loss(views, batch)
    broken = pretrain(register(monkeypatch, Mine)).history.loss

    class Mine(SupCE):
        def loss(self, views, batch): return super().loss(views, batch)
    mended = pretrain(register(monkeypatch, Mine)).history.loss
    assert broken.eq(0).all() and mended.gt(1).all()


def test_a_part_of_the_library_that_is_replaced_makes_another_run(monkeypatch):
    first = pretrain(short())
    monkeypatch.setattr(methods, "nt_xent", lambda z1, z2, t: (z1 - z2).square().mean())
    assert pretrain(short()).hash != first.hash


def test_a_method_without_source_is_refused(monkeypatch):
    names = {"__name__": "typed_at_a_prompt"}
    exec("from sslnb.methods import SupCE\nclass Mine(SupCE):\n"
         "    def loss(self, views, batch): return super().loss(views, batch)", names)
    with pytest.raises(SettingError, match="has no source to be known by"):
        pretrain(register(monkeypatch, names["Mine"]))


def test_weights_that_exploded_under_a_finite_loss_are_no_finished_run(monkeypatch):
    class Mine(SupCE):
        def loss(self, views, batch):
            with torch.no_grad(): self.encoder.stem[1].running_var.fill_(torch.inf)  # not used in training
            return super().loss(views, batch)
    with pytest.raises(Diverged, match="running_var is not finite after step 10"): pretrain(register(monkeypatch, Mine))


@pytest.mark.slow
def test_a_state_of_a_method_with_other_buffers_is_begun_again(monkeypatch, stop_at):
    class Mine(SupCE):
        def __init__(self, encoder, images, *, width: int = 2):
            super().__init__(encoder, images)
            self.register_buffer("seen", torch.zeros(width))
    config = replace(register(monkeypatch, Mine), steps=30, save_at=(10,))
    expected = pretrain(config).history
    job = resolve(config, CPU)
    run = Run(job.config, Run(job.config).folder.parent / "again")
    with pytest.raises(KeyboardInterrupt): _find_or_train(Run(job.config, run.folder.parent, job), stop_at(10), CPU)
    tensors, info = load_tensors(run.state_file)
    save_tensors(run.state_file, tensors | {"method.seen": torch.zeros(3)}, **info)
    with pytest.warns(UserWarning, match="seen of the method were other ones when it was saved; this run starts again"):
        again, = train_all([job], store=run.folder.parent)
    assert again.history.equals(expected)


def refused(*args, **kwargs):
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def read_only(monkeypatch):
    "A folder that takes no files, for a user who may do everything, too."
    def make(folder):
        monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(folder)))
        monkeypatch.setattr(FileLock, "acquire", refused)
        monkeypatch.setattr(os, "replace", refused)
    return make


def test_a_finished_run_in_a_read_only_store_is_found(read_only):
    run = pretrain(short())
    read_only(run.folder.parent)
    assert pretrain(short()).hash == run.hash
    with pytest.raises(SettingError, match="cannot be written to: name a store of your own with SSLNB_STORE"):
        pretrain(short(seed=1))


def test_trace_that_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLNB_TRACE", str(tmp_path))
    with pytest.raises(SettingError, match="SSLNB_TRACE=.*: Is a directory; name a file"):
        noted(tmp_path / "loss.csv")


def test_results_that_cannot_be_kept_are_given_all_the_same(read_only, tmp_path):
    read_only(tmp_path)
    for _ in range(2):
        with pytest.warns(UserWarning, match="cannot be written to"):
            assert cached(register, {"q": 1}, lambda: {"a": 1}) == {"a": 1}


@pytest.mark.parametrize("bad", [dict(momentum=1.5), dict(weight_decay=-1.0), dict(lr=float("inf")),
                                 dict(lr=float("nan")), dict(lr=0.0), dict(seed=-1),
                                 dict(seed=99999999999999999999), dict(options={"temperature": 0.0}), dict(warmup=10),
                                 dict(options={"temperature": float("inf")}), dict(save_at=(11,)), dict(steps=0),
                                 dict(batch_size=0)])
def test_ranges(bad):
    name = next(iter(bad.get("options") or bad))
    with pytest.raises(SettingError, match=name): resolve(short(**bad), CPU)


def test_lists_of_steps_and_no_images():
    assert short(save_at=[1, 10]).save_at == (1, 10)
    with pytest.raises(SettingError, match="has 0 images"): resolve(short(), CPU, data.load("shapes")[:0])


def test_nothing_of_the_users_home_is_in_a_configuration(tmp_path):
    pixels = data.load("shapes").pixels[:32].permute(0, 2, 3, 1).numpy()
    for i, p in enumerate(pixels):
        file = tmp_path / "secret" / "photos" / "train" / str(i % 2) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(p).save(file)
    run = pretrain(short(dataset=f"folder:{tmp_path}/secret/photos", steps=1))
    text = (run.folder / "config.json").read_text("utf-8")
    assert "secret" not in text and '"dataset":"folder:photos' in text


def test_rotnet_says_that_it_wants_square_images():
    wide = data.Images.from_arrays(torch.zeros(20, 3, 32, 48, dtype=torch.uint8), name="wide")
    with pytest.raises(SettingError, match=r"32×48 pixels \(height, width\), and rotnet turns images by quarters: "
                                           r"load them with size=32"):
        pretrain(short(method="rotnet", options={}, dataset=None), wide)
    pretrain(short(dataset=None, steps=1), wide)  # SimCLR does not mind


def test_a_run_in_the_other_precision_is_taken_from_a_shelf_but_your_own_comes_first(tmp_path, monkeypatch):
    config = replace(CONFIG, steps=2, save_at=())
    native = resolve(config, CPU).config.precision
    other = replace(config, precision="fp32" if native == "bf16" else "bf16")
    pretrain(other, store=tmp_path / "shelf")
    monkeypatch.setenv("SSLNB_SHELVES", str(tmp_path / "shelf"))
    assert resolve(config, CPU).config.precision == other.precision
    assert resolve(replace(config, seed=1), CPU).config.precision == native
    pretrain(replace(config, precision=native))
    assert resolve(config, CPU).config.precision == native


def test_training_with_tqdm_turned_off(monkeypatch):
    "`TQDM_DISABLE=1`, as many set it for logs."
    monkeypatch.setattr(core, "tqdm", partial(core.tqdm, disable=True))
    assert pretrain(replace(CONFIG, steps=2, save_at=())).is_finished


@pytest.mark.parametrize("native, said", [("fp32", True), ("bf16", False)])
def test_weights_in_bf16_are_slow_to_make_again_without_it(tmp_path, monkeypatch, capfd, native, said):
    shelf = tmp_path / "shelf"
    made = pretrain(replace(CONFIG, steps=2, save_at=(), precision="bf16"), store=shelf)
    (made.folder / "models.json").write_text('{"2": {"seconds": 1.0}}', "utf-8")  # as on a shelf: without its weights
    made.model_file(2).unlink()
    monkeypatch.setenv("SSLNB_SHELVES", str(shelf))
    monkeypatch.setattr("sslnb.models.fast_precision", lambda device: native)
    assert isinstance(load_encoder(Run(made.config, job=made.job), device=CPU), torch.nn.Module)
    told = capfd.readouterr().err
    assert "did not come along" in told and ("only imitates" in told) == said


def test_a_configuration_with_stages_is_read_back():
    "As `sslnb store verify`, `export` and `judge` do."
    config = replace(CONFIG, sides=((0, 16), (60, 32)))
    assert core.from_json(TrainConfig, core.to_json(config)) == config
    for wrong in (((0,),), ((-1, 16),), (5,)):
        with pytest.raises(SettingError, match="sides"): replace(CONFIG, sides=wrong)
