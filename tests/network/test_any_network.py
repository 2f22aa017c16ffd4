"""Layer ensembles on any network: what heads see, gradients, compilation, replicas, threads."""

import copy
import pickle
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
import torchvision
from network.small_networks import Recording, TwoScales
from torch import nn
from torch.nn.parallel import replicate
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor

from nnunetv2_le.errors import SettingError, UnsupportedArchitectureError
from nnunetv2_le.network import taps
from nnunetv2_le.network.any_network import LayerEnsemble
from nnunetv2_le.network.taps import Tap
from nnunetv2_le.training.losses import summed_loss

EXAMPLE = torch.zeros(1, 1, 8, 8)


def _ensemble(network=None, layers=("fine", "coarse"), **options):
    torch.manual_seed(0)
    options = {"example": EXAMPLE, "task": "segmentation"} | options
    return LayerEnsemble(network or TwoScales(), layers, **options).eval()


def _images(seed=0, batch=2):
    return torch.randn((batch, 1, 8, 8), generator=torch.Generator().manual_seed(seed))


def _assert_close(one, other):
    assert list(one) == list(other)
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], msg=name)


def test_outputs_are_ordered_and_the_networks_own_comes_last_unchanged():
    network = TwoScales().eval()
    expected = network(_images())
    outputs = _ensemble(network, ["coarse", "fine"])(_images())
    assert list(outputs) == ["fine", "coarse", "output"]
    assert torch.equal(outputs["output"], expected)
    assert {tuple(values.shape) for values in outputs.values()} == {(2, 3, 8, 8)}


def test_a_last_layer_called_output_is_one_member():
    network = nn.Sequential(
        OrderedDict(a=nn.Conv2d(1, 4, 1), b=nn.Conv2d(4, 4, 1), output=nn.Conv2d(4, 3, 1))
    )
    ensemble = _ensemble(network, "*")
    assert ensemble.member_names == ("a", "b", "output")
    assert len(ensemble.heads) == 2
    assert list(ensemble(_images())) == list(ensemble.member_names)


def test_heads_see_what_a_feature_extractor_sees():
    network = torchvision.models.resnet18(num_classes=5)
    images = torch.randn(2, 3, 64, 64)
    names = ["layer1", "layer2.0", "layer4"]
    ensemble = _ensemble(network, names, example=torch.zeros(1, 3, 64, 64), task="classification")
    features = create_feature_extractor(network.eval(), names)(images)
    outputs = ensemble(images)
    for name, head in zip(names, ensemble.heads, strict=True):
        expected = head.head(features[name].mean((2, 3)))
        torch.testing.assert_close(outputs[name], expected)
    torch.testing.assert_close(outputs["output"], network(images))


def test_a_segmentation_head_is_a_1x1_convolution_and_linear_upsampling():
    ensemble = _ensemble()
    features = create_feature_extractor(ensemble.model, ["coarse"])(_images())["coarse"]
    small = nn.functional.conv2d(features, ensemble.heads[1].head.weight)
    small = small + ensemble.heads[1].head.bias[:, None, None]
    expected = nn.functional.interpolate(small, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ensemble(_images())["coarse"], expected)


def test_volumes_have_heads_too():
    network = nn.Sequential(nn.Conv3d(1, 2, 2, stride=(1, 2, 2)), nn.ConvTranspose3d(2, 3, 2))
    ensemble = _ensemble(network, "0", example=torch.zeros(1, 1, 4, 8, 8))
    assert ensemble.layers[0].scale == (4 / 3, 2.0, 2.0)
    assert ensemble(torch.zeros(2, 1, 4, 8, 8))["0"].shape == (2, 3, 4, 5, 5)


@pytest.mark.parametrize(
    ("last", "shape"),
    [(nn.Linear(4, 1), (2, 1)), (nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), (2,))],
)
def test_regression_heads_have_the_shape_of_the_output(last, shape):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    outputs = _ensemble(network, "0", task="regression")(_images())
    assert {tuple(values.shape) for values in outputs.values()} == {shape}


def test_the_loss_is_the_sum_over_layers():
    outputs = _ensemble()(_images())
    target = torch.randint(3, (2, 8, 8))
    loss = nn.CrossEntropyLoss()
    expected = sum(loss(values, target) for values in outputs.values())
    torch.testing.assert_close(summed_loss(outputs, target, loss=loss), expected)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_network_gets_only_a_share_of_the_heads_gradient(share):
    own, heads, mixed = (
        _gradient(gradient, names)
        for gradient, names in [(1.0, ["output"]), (1.0, ["fine", "coarse"]), (share, None)]
    )
    torch.testing.assert_close(mixed, own + share * heads)


def _gradient(gradient, names):
    ensemble = _ensemble(gradient=gradient)
    outputs = ensemble(_images())
    sum(outputs[name].square().mean() for name in names or outputs).backward()
    return ensemble.model.fine[0].weight.grad


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_compiles_as_one_graph(backend, shapes_unchecked):
    torch.compiler.reset()
    ensemble = _ensemble()
    compiled = torch.compile(ensemble, backend=backend, fullgraph=True)
    for seed in (1, 2):
        _assert_close(compiled(_images(seed)), ensemble(_images(seed)))
    assert taps._running.collections == {}


def test_it_trains_compiled_as_it_trains(shapes_unchecked):
    torch.compiler.reset()
    target = torch.randint(3, (2, 8, 8))
    gradients = []
    for compiled in (False, True):
        ensemble = _ensemble(gradient=0.5).train()
        run = torch.compile(ensemble, backend="aot_eager") if compiled else ensemble
        summed_loss(run(_images()), target, loss=nn.CrossEntropyLoss()).backward()
        gradients.append({name: value.grad for name, value in ensemble.named_parameters()})
    _assert_close(*gradients)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_ensemble_needs_no_call_before(backend, shapes_unchecked):
    torch.compiler.reset()
    ensemble = _ensemble()
    compiled = torch.compile(ensemble, backend=backend)
    found = []

    def in_new_thread():  # where no ensemble ran before
        found.extend(compiled(_images(seed)) for seed in (1, 1))

    thread = threading.Thread(target=in_new_thread)
    thread.start()
    thread.join()
    _assert_close(*found)


def test_a_layer_that_runs_twice_in_training_alone_is_refused(shapes_unchecked):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 1, 3, padding=1)
            self.last = nn.Conv2d(1, 2, 1)

        def forward(self, images):
            values = self.first(images)
            return self.last(self.first(values) if self.training else values)

    ensemble = _ensemble(Twice(), ["first"])
    ensemble.eval()(_images())
    with pytest.raises(SettingError, match=r"^The layer 'first' ran several times in one call.*Ch"):
        ensemble.train()(_images())
    assert taps._running.collections == {}


# torch itself looks at the gradient of what is carried over the break, and warns about it
@pytest.mark.filterwarnings("default")
def test_a_graph_break_inside_the_network_changes_nothing(shapes_unchecked):
    torch.compiler.reset()
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), Recording(torch._dynamo.graph_break), nn.Conv2d(4, 3, 1)
    )
    ensemble = _ensemble(network, ["0", "1"])
    compiled = torch.compile(ensemble, backend="eager")
    _assert_close(compiled(_images()), ensemble(_images()))


def _replicas(ensemble, number):
    """Replicas as ``nn.DataParallel`` makes them, but all on the CPU."""

    def broadcast(tensors, devices, detach=False):
        return [[tensor.clone() for tensor in tensors] for _ in devices]

    module = sys.modules[replicate.__module__]  # torch.nn.parallel has a function of that name
    with mock.patch.object(module, "_broadcast_coalesced_reshape", broadcast):
        return replicate(ensemble, list(range(number)))


def test_replicas_in_threads_do_not_mix():
    barrier = threading.Barrier(3, timeout=60)
    network = TwoScales()
    network.fine.append(Recording(lambda: None))
    ensemble = _ensemble(network, ["fine.0", "coarse"])
    batches = [_images(seed) for seed in range(3)]
    expected = [ensemble(images) for images in batches]
    network.fine[2].call = barrier.wait  # all replicas are in the middle of a pass at once
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda run, images: run(images), _replicas(ensemble, 3), batches))
    for one, other in zip(results, expected, strict=True):
        _assert_close(one, other)


def test_threads_that_share_one_ensemble_do_not_mix():
    barrier = threading.Barrier(2, timeout=60)
    network = TwoScales()
    network.fine.append(Recording(lambda: None))
    ensemble = _ensemble(network, ["fine.0", "coarse"])
    batches = [_images(seed) for seed in range(2)]
    expected = [ensemble(images) for images in batches]
    network.fine[2].call = barrier.wait
    with ThreadPoolExecutor(2) as pool:
        for one, other in zip(pool.map(ensemble, batches), expected, strict=True):
            _assert_close(one, other)


def test_no_state_is_left_after_a_call_or_an_error():
    ensemble = _ensemble()
    ensemble(_images())
    assert taps._running.collections == {}
    with pytest.raises(RuntimeError, match="expected input"):
        ensemble(torch.zeros(1, 2, 8, 8))
    assert taps._running.collections == {}


def test_outside_an_ensemble_the_network_collects_nothing():
    network = TwoScales().eval()
    _ensemble(network)
    Tap("nobody", "fine")(network, (), None)
    assert taps._running.collections == {}
    assert network(_images()).shape == (2, 3, 8, 8)


def test_a_network_that_carried_heads_before_can_be_part_of_another_that_runs_it_twice():
    network = TwoScales().eval()
    _ensemble(network)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.fuse = network, nn.Conv2d(6, 3, 1)

        def forward(self, images):
            return self.fuse(torch.cat((self.one(images), self.one(images.flip(-1))), dim=1))

    outputs = _ensemble(Both(), ["fuse"])(_images())
    assert list(outputs) == ["fuse", "output"]


def test_copies_and_pickles_are_ensembles_of_their_own():
    ensemble = _ensemble()
    expected = ensemble(_images())
    twin, pickled = copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))
    with torch.no_grad():
        ensemble.model.fine[0].weight.zero_()
    for other in (twin, pickled):
        _assert_close(other(_images()), expected)


def test_a_state_dict_goes_into_another_ensemble():
    ensemble, other = _ensemble(), _ensemble(gradient=0.0)
    with torch.no_grad():
        ensemble.heads[0].head.weight.fill_(1.0)
    other.load_state_dict(ensemble.state_dict())
    _assert_close(other(_images()), ensemble(_images()))


def test_a_checkpointed_layer_keeps_its_gradient():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = TwoScales()

        def forward(self, images):
            return checkpoint(self.network, images, use_reentrant=False)

    plain, saving = _ensemble(TwoScales()), _ensemble(Checkpointed(), ["network.fine"])
    saving.model.network.load_state_dict(plain.model.state_dict())
    for ensemble in (plain, saving):
        ensemble(_images())["output"].sum().backward()
    torch.testing.assert_close(
        saving.model.network.fine[0].weight.grad, plain.model.fine[0].weight.grad
    )


class _Checkpointed(nn.Module):
    """Computes its middle layers twice, in the reentrant way."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid())
        self.segment = nn.Conv2d(4, 3, 1)

    def forward(self, images):
        return self.segment(checkpoint(self.inner, self.first(images), use_reentrant=True))


# torch's own, for passes without gradients
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_a_head_that_a_reentrant_checkpoint_cuts_off_is_refused_where_it_trains():
    ensemble = _ensemble(_Checkpointed(), ["first", "inner.0", "inner"])
    with pytest.raises(UnsupportedArchitectureError, match=r"heads on 'inner.0' cannot .*reentran"):
        ensemble(_images())
    with torch.no_grad():
        assert list(ensemble(_images())) == ["first", "inner.0", "inner", "output"]
    _ensemble(_Checkpointed(), ["inner.0"], gradient=0.0)(_images())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_what_goes_into_and_comes_out_of_a_reentrant_checkpoint_can_carry_heads():
    ensemble = _ensemble(_Checkpointed(), ["first", "inner"])
    ensemble(_images())["inner"].sum().backward()
    assert all(value.grad.any() for value in ensemble.model.inner.parameters())
    assert ensemble.model.first.weight.grad.any()


def test_a_frozen_trunk_is_not_taken_for_a_checkpoint():
    class Probe(TwoScales):
        def forward(self, images):
            with torch.no_grad():
                fine = self.fine(images)
            up = nn.functional.interpolate(self.coarse(fine), size=images.shape[2:])
            return self.segment(torch.cat((fine, up), 1))

    frozen = TwoScales()
    frozen.fine.requires_grad_(False)
    for network in (Probe(), frozen):
        ensemble = _ensemble(network)
        ensemble(_images())["fine"].sum().backward()
        assert ensemble.heads[0].head.weight.grad is not None


def test_heads_have_the_type_of_their_features():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = TwoScales().bfloat16()

        def forward(self, images):
            return self.network(images.bfloat16()).float()

    ensemble = _ensemble(Single(), "network.fine")
    assert ensemble.heads[0].head.weight.dtype == torch.bfloat16
    assert ensemble(_images())["network.fine"].shape == (2, 3, 8, 8)


def test_an_ensemble_that_is_built_in_autocast_is_as_one_that_is_not():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ensemble = _ensemble()
    assert {value.dtype for value in ensemble.parameters()} == {torch.float32}
    ensemble(_images())["fine"].sum().backward()


@pytest.mark.parametrize("task", ["segmentation", "regression"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_network_can_switch_autocast_on_by_itself(task, at_once):
    class Mixed(TwoScales):
        is_on = at_once  # on a GPU, for example

        def forward(self, images):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.is_on):
                logits = super().forward(images).float()
            return logits if task == "segmentation" else logits.mean((2, 3))

    network = Mixed()
    ensemble = _ensemble(network, task=task)
    network.is_on = True
    assert {value.dtype for value in ensemble.parameters()} == {torch.float32}
    predictions = ensemble(_images())
    assert {value.dtype for value in predictions.values()} == {torch.float32}
    sum(value.sum() for value in predictions.values()).backward()


def test_a_layer_can_be_named_by_its_second_name():
    network = TwoScales()
    network.thin = network.fine
    ensemble = _ensemble(network, ["thin"])
    assert list(ensemble(_images())) == ["thin", "output"]


def test_an_ensemble_inside_an_ensemble_keeps_its_layers_apart():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Conv2d(1, 1, 1)
            self.inner = _ensemble()
            self.segment = nn.Conv2d(3, 3, 1)

        def forward(self, images):
            return self.segment(self.inner(self.fine(images))["output"])

    outer = _ensemble(Outer(), ["fine", "inner.model.fine", "segment"])
    outputs = outer(_images())
    assert list(outputs) == ["fine", "inner.model.fine", "segment", "output"]
    features = outer.model.fine(_images())
    torch.testing.assert_close(outputs["fine"], outer.heads[0].head(features))
    seen = outer.model.inner.model.fine(features)
    torch.testing.assert_close(outputs["inner.model.fine"], outer.heads[1].head(seen))
    inner = outer.model.inner(features)
    torch.testing.assert_close(inner["fine"], outer.model.inner.heads[0].head(seen))


def test_the_prediction_can_be_an_entry_or_be_picked():
    class Result(nn.Module):
        def __init__(self, pack):
            super().__init__()
            self.network, self.pack = TwoScales(), pack

        def forward(self, images, *, times=1):
            return self.pack(times * self.network(images))

    entry = _ensemble(Result(lambda own: {"out": own, "aux": 0}), "network.fine")
    assert list(entry(_images(), times=2)) == ["network.fine", "output"]
    picked = _ensemble(
        Result(lambda own: [own, None]), "network.fine", output=lambda result: result[0]
    )
    torch.testing.assert_close(picked(_images())["output"], picked.model.network(_images()))
    with pytest.raises(UnsupportedArchitectureError, match=r"a list of 2; which part .* output="):
        _ensemble(Result(lambda own: [own, None]), "network.fine")


def test_a_layer_that_is_left_out_later_is_named():
    class Skipping(TwoScales):
        def forward(self, images):
            return super().forward(images) if images.shape[-1] > 4 else self.segment(images)

    ensemble = _ensemble(Skipping())
    with pytest.raises(UnsupportedArchitectureError, match="Layer 'fine' was run in the pass over"):
        ensemble(torch.zeros(1, 10, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "needs at least one layer; got none"),
        (
            {"task": "detection"},
            "task is segmentation, classification, regression; got 'detection'",
        ),
        ({"gradient": 1.5}, "a share from 0 to 1; got 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message, shapes_unchecked):
    with pytest.raises(SettingError, match=message):
        _ensemble(**options)


def test_a_network_for_another_task_is_refused():
    with pytest.raises(
        UnsupportedArchitectureError, match=r"task='classification' needs .*\(1, 3,"
    ):
        _ensemble(task="classification")


class _MoreInTraining(nn.Module):
    """As networks with deep supervision: one prediction in evaluation, several in training."""

    def __init__(self, more):
        super().__init__()
        self.more = more

    def forward(self, x):
        return self.more(x) if self.training else x


class _First(nn.Module):
    def forward(self, x):
        return x[0] if isinstance(x, tuple) else x


def test_a_prediction_of_another_shape_in_training_is_named():
    network = nn.Sequential(TwoScales(), _MoreInTraining(lambda x: torch.stack((x, x), dim=1)))
    ensemble = _ensemble(network, ["0.fine"])
    assert list(ensemble(_images())) == ["0.fine", "output"]
    with pytest.raises(UnsupportedArchitectureError, match=r"gives a tensor of shape \(2, 2, 3,"):
        ensemble.train()(_images())


def test_a_layer_that_gives_no_tensor_in_training_is_named():
    first = nn.Sequential(nn.Conv2d(1, 3, 1), _MoreInTraining(lambda x: (x, x)))
    ensemble = _ensemble(nn.Sequential(first, _First()), ["0"])
    assert list(ensemble(_images())) == ["0", "output"]
    with pytest.raises(UnsupportedArchitectureError, match="'0' gave a tuple of 2 in this pass"):
        ensemble.train()(_images())
