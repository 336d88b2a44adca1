"SimSiam and SimCLIC: against lightly and a loop that remembers, interrupted, on other images, with wrong strengths."
from dataclasses import replace

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

from sslnb import data
from sslnb.augment import RECIPES
from sslnb.core import SettingError, rng
from sslnb.methods import Batch, SimCLIC, SimSiam
from sslnb.models import encoder
from sslnb.runs import Run, load_tensors
from sslnb.train import TrainConfig, Training, _find_or_train, pretrain, resolve, train_all

CPU = torch.device("cpu")
SMALL = {"hidden": 32, "out": 16, "bottleneck": 8}
CONFIG = TrainConfig(dataset="shapes", method="simclic", encoder="tiny", steps=14, batch_size=16, lr=0.1,
                     optimizer="sgd", options=SMALL | {"perturbation": "history", "tau": 0.4})


@pytest.fixture(scope="module")
def some(): return data.load("shapes").at_most(64)  # four steps an epoch


def test_heads_and_loss_are_those_of_lightly(some):
    torch.manual_seed(0)
    ours = SimSiam(encoder("tiny", some), some, **SMALL)
    project, predict = SimSiamProjectionHead(ours.encoder.dim, 32, 16), SimSiamPredictionHead(16, 8, 16)
    theirs = dict(zip([k for k in project.state_dict() if not k.startswith("layers.7")],
                      ours.projector.state_dict().values()))
    project.load_state_dict(theirs, strict=False)  # their last BatchNorm has no weight and bias; ours begins at 1 and 0
    predict.load_state_dict(dict(zip(predict.state_dict(), ours.predictor.state_dict().values())))
    x = torch.rand(32, 3, 32, 32, generator=rng("x"))
    h = ours.encoder(x).detach()
    z0, z1 = project(h[:16]), project(h[16:])
    with torch.no_grad():  # lightly takes the views one after the other, so BatchNorm sees each by itself
        z = torch.cat([ours.projector(part) for part in h.chunk(2)])
        torch.testing.assert_close(z, torch.cat([z0, z1]), atol=1e-5, rtol=1e-4)
    p = torch.cat([predict(z0), predict(z1)])
    similarity = NegativeCosineSimilarity()
    by_lightly = (similarity(p[:16], z1.detach()) + similarity(p[16:], z0.detach())) / 2
    torch.testing.assert_close(ours.distance(p, z.roll(16, 0)), by_lightly, atol=1e-5, rtol=1e-4)


def test_history_is_that_of_the_same_image_one_epoch_ago(some):
    training = Training(resolve(CONFIG, CPU, some), CPU)
    method, remembered, steps = training.method, {}, 8
    for _step in range(steps):
        def watch(z, u, index, perturb=method.perturb):
            target = perturb(z, u, index)
            for i, place in enumerate(index.tolist()):
                expected = 0.4 * remembered[place] + 0.6 * z[i] if place in remembered else z[i]
                torch.testing.assert_close(target[i], expected)
            for i, place in enumerate(index[:16].tolist()): watch.new[place] = z[i].detach().clone()
            return target
        watch.new = {}
        method.perturb, kept = watch, method.perturb
        training.take_step()
        method.perturb = kept
        remembered |= watch.new
    assert len(remembered) == 64 and not method.memory.isnan().any()


def test_history_survives_an_interruption_to_the_bit(some, tmp_path, stop_at):
    job = resolve(replace(CONFIG, save_at=(6,)), CPU, some)
    straight, = train_all([job], CPU, store=tmp_path / "straight")
    run = Run(job.config, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt): _find_or_train(Run(job.config, tmp_path / "broken", job), stop_at(6), CPU)
    state, info = load_tensors(run.state_file)
    assert 4 < info["step"] < 14 and not state["method.memory"].isnan().any()
    run, = train_all([job], CPU, store=tmp_path / "broken")
    assert run.history.equals(straight.history) and run.history.deviation.notna().sum() == 4
    a, b = (load_tensors(r.model_file(14))[0] for r in (run, straight))
    assert all(torch.equal(a[k], b[k]) for k in b) and not [k for k in a if "memory" in k]  # of use to nobody now


def test_history_of_other_images_is_refused(some, tmp_path, stop_at):
    job = resolve(replace(CONFIG, save_at=(6,)), CPU, some)
    with pytest.raises(KeyboardInterrupt): _find_or_train(Run(job.config, tmp_path, job), stop_at(6), CPU)
    before = Run(job.config, tmp_path).state_file.read_bytes()
    changed = replace(some, pixels=some.pixels.flip(0))
    with pytest.raises(SettingError, match=f"has fingerprint {changed.fingerprint}, not .*belongs to one set"):
        train_all([job._replace(images=changed)], CPU, store=tmp_path)
    assert Run(job.config, tmp_path).state_file.read_bytes() == before


@pytest.mark.parametrize("wrong, message", [
    ({"tau": 1.0}, "tau = 1.0: input should be less than 1"), ({"tau": -0.1}, "tau = -0.1"),
    ({"drop_rate": 1.0}, "drop_rate = 1.0: input should be less than 1"), ({"epsilon": float("nan")}, "epsilon = nan"),
    ({"epsilon": 0.0}, "epsilon = 0.0: input should be greater than 0"),
    ({"perturbation": "crop"}, "'history', 'dropout' or 'noise'"),
    ({"taus": 0.1}, "no setting 'taus'")])
def test_wrong_strengths_are_named(wrong, message):
    with pytest.raises(SettingError, match=message): pretrain(replace(CONFIG, options=SMALL | wrong))


def test_a_fixed_predictor_stays_as_it_began_and_the_others_do_not(some):
    for predictor, fixed in (("fixed-random", True), ("2-layer", False)):
        config = replace(CONFIG, options=SMALL | {"predictor": predictor}, weight_decay=0.01)
        training = Training(resolve(config, CPU, some), CPU)
        before = {k: v.clone() for k, v in training.method.predictor.named_parameters()}
        first = training.method.encoder.stem[0].weight.clone()
        for _ in range(3): training.take_step()
        same = [torch.equal(before[k], v) for k, v in training.method.predictor.named_parameters()]
        assert all(same) if fixed else not any(same)
        assert not torch.equal(first, training.method.encoder.stem[0].weight)


def test_dropout_leaves_the_cosine_that_p_says():
    images = data.load("shapes").at_most(200)
    method = SimCLIC(encoder("tiny", images), images, hidden=32, out=2000, bottleneck=8, perturbation="dropout",
                     drop_rate=0.25)
    batch = Batch(images.pixels, images.labels, torch.arange(200))
    x, u = method.views(batch, RECIPES["none"], rng("u"))
    with torch.no_grad(): z = method.projector(method.encoder(x))
    cosine = torch.nn.functional.cosine_similarity(z, method.perturb(z, u[:200], batch.index))
    assert abs(cosine.mean() - 0.75 ** 0.5) < 0.01
