"DeepCluster in training: interrupted, without labels, against scikit-learn."
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from sslnb import data
from sslnb.core import SettingError, rng
from sslnb.methods import DeepCluster
from sslnb.models import ENCODERS, encoder, features
from sslnb.runs import Run, load_tensors
from sslnb.train import TrainConfig, Training, _find_or_train, load_buffer, resolve, train_all

CPU = torch.device("cpu")
CONFIG = TrainConfig(dataset="digits", method="deepcluster", encoder="small-alexnet", steps=23, batch_size=16, lr=0.05,
                     optimizer="sgd", save_at=(10,), options={"clusters": 8, "components": 10})


@pytest.fixture(scope="module")
def some(): return data.load("digits").at_most(100)  # six steps an epoch


@pytest.mark.slow
def test_interrupted_within_an_epoch_goes_on_with_the_same_clusters(some, tmp_path, stop_at):
    job = resolve(CONFIG, CPU, some)
    straight, = train_all([job], CPU, store=tmp_path / "straight")
    run = Run(job.config, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt): _find_or_train(Run(job.config, tmp_path / "broken", job), stop_at(10), CPU)
    assert 6 < load_tensors(run.state_file)[1]["step"] < 23 and not run.provenance_file.exists()
    run, = train_all([job], CPU, store=tmp_path / "broken")
    assert run.history.equals(straight.history) and run.history.nmi_labels.notna().sum() == 4
    a, b = (load_tensors(r.model_file(23))[0] for r in (run, straight))
    assert all(torch.equal(a[k], b[k]) for k in b) and "assigned" in a


def test_a_new_classifier_has_no_momentum_but_the_encoder_keeps_its_own(some):
    training = Training(resolve(CONFIG, CPU, some), CPU)
    for _ in range(6): training.take_step()
    method, state = training.method, training.optimizer.state
    old = {p: state[p]["momentum_buffer"].clone() for p in method.parameters()}
    before = method.head.weight.clone()
    training._begin_epoch(1)
    for p in method.head.parameters(): assert old[p].abs().max() > 0 and not state[p]["momentum_buffer"].any()
    for p in method.encoder.parameters(): assert torch.equal(state[p]["momentum_buffer"], old[p])
    assert not torch.equal(before, method.head.weight) and method.head.weight.std() < 0.02


def test_clusters_as_good_as_those_of_scikit_learn(some):
    method = DeepCluster(encoder("small-alexnet", some), some, clusters=8, components=10)
    method.begin_epoch(some, rng("epoch"))
    points = normalize(PCA(10, whiten=True).fit_transform(features(method.encoder, some).numpy()))
    theirs = KMeans(8, n_init=20, random_state=0).fit(points).inertia_
    labels = method.assigned.numpy()
    centres = np.stack([points[labels == c].mean(0) for c in range(8)])
    assert ((points - centres[labels]) ** 2).sum() < 1.15 * theirs  # one start against the best of twenty


def test_every_cluster_is_seen_equally_often(some):
    training = Training(resolve(CONFIG, CPU, some), CPU)
    training.take_step()
    seen = training.method.assigned[training.order].bincount(minlength=8)
    assert len(training.order) == 100 and seen.max() - seen.min() <= 1


def test_labels_are_not_needed_and_change_nothing(some):
    unlabelled = replace(some, labels=torch.full_like(some.labels, -1))
    runs = [Training(resolve(CONFIG, CPU, some)._replace(images=images), CPU) for images in (some, unlabelled)]
    for _ in range(8):
        for training in runs: training.take_step()
    assert torch.equal(runs[0].losses, runs[1].losses) and torch.equal(runs[0].order, runs[1].order)
    assert all(math.isnan(n["nmi_labels"]) for n in runs[1].notes) and runs[0].notes[0]["nmi_labels"] > 0.2


@pytest.mark.parametrize("options, message", [({"clusters": 101}, "clusters = 101: must be from 2 to 100"),
                                              ({"components": 300}, "components = 300: must be from 1 to 256"),
                                              ({"k": 3}, "k")])
def test_what_cannot_be_clustered_is_refused(some, options, message):
    with pytest.raises(SettingError, match=message):
        Training(resolve(replace(CONFIG, options=options), CPU, some), CPU)


@pytest.mark.parametrize("name", [name for name in ENCODERS if "alexnet" in name])
def test_alexnet_takes_grey_and_coloured_images(some, name):
    if name.startswith("alexnet"): some = some[:2]  # 100 times as many weights
    for images in (some, data.load("shapes", "test")[:2]):
        net = encoder(name, images)
        assert features(net, images).shape == (len(images), net.dim)


def test_the_kept_assignment_is_that_of_the_last_clustering(some, tmp_path):
    run, = train_all([resolve(CONFIG, CPU, some)], CPU, store=tmp_path)
    assigned = load_buffer(run, "assigned")
    assert assigned.shape == (100,) and not torch.equal(assigned, load_buffer(run, "assigned", 10))
    with pytest.raises(SettingError, match="keeps nothing called 'memory'"): load_buffer(run, "memory")
