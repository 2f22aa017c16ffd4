"""Networks and losses on a simulated GPU, under mixed precision as nnU-Net trains there.

Forward passes alone: torch's backward pass wants a real GPU.
"""

import copy

import pytest
import torch

from tests.conftest import NnunetFolders
from tests.helpers import TinyDataset, prepare, trainer_for
from tests.simulated_gpu import GPU, gpu_autocast, needs_simulated_gpu, simulated_gpu

pytestmark = [
    needs_simulated_gpu,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # nnU-Net's own warnings
]

DATASET = TinyDataset(1)
REGIONS = TinyDataset(
    2, labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=(1, 2)
)


@pytest.fixture(scope="module")
def datasets(module_nnunet_folders: NnunetFolders) -> None:
    for dataset in (DATASET, REGIONS):
        prepare(dataset, ["3d_fullres"])


@pytest.mark.parametrize("dataset", [DATASET, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize(
    "name",
    ["LayerEnsembleTrainer", "LayerEnsembleTrainerProbes", "MultiHeadTrainer", "DropoutTrainer"],
)
def test_loss_and_fused_output_are_those_of_a_cpu(name: str, dataset: TinyDataset, datasets: None):
    torch.manual_seed(0)
    trainer = trainer_for(dataset, "3d_fullres", trainer=name)
    trainer.initialize()
    network = trainer.network.eval()  # no dropout
    image = torch.randn(2, 1, 16, 24, 20)
    with torch.inference_mode():
        outputs = network(image)
        channels = trainer.label_manager.num_segmentation_heads if dataset is REGIONS else 1
        targets = [torch.randint(2, (2, channels, *o.shape[2:])).float() for o in outputs]
        if "Layer" in name:
            targets = targets[:1]
        elif "Multi" in name:
            targets = targets[trainer.num_heads - 1 :]
        expected = trainer.loss(outputs, targets)
    trainer.set_deep_supervision_enabled(False)
    with torch.inference_mode():
        fused = network(image)
    trainer.set_deep_supervision_enabled(True)

    with simulated_gpu(), torch.inference_mode(), gpu_autocast():
        trainer.network = copy.deepcopy(network).to(GPU)
        loss = trainer.loss.to(GPU)
        there = trainer.network(image.to(GPU))
        assert {output.dtype for output in there} == {torch.bfloat16}
        found = loss(there, [target.to(GPU) for target in targets])
        assert found.cpu().item() == pytest.approx(expected.item(), abs=0.05)
        trainer.set_deep_supervision_enabled(False)
        assert torch.allclose(trainer.network(image.to(GPU)).cpu().float(), fused, atol=0.1)
