"""Networks that are small and have what large ones have: branches, tokens, graph breaks."""

import torch
from torch import nn


class TwoScales(nn.Module):
    """A segmentation network with two resolutions and normalisation, in 2D."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.fine = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.segment = nn.Conv2d(10, 3, 1)

    def forward(self, images):
        fine = self.fine(images)
        coarse = self.coarse(fine)
        up = nn.functional.interpolate(coarse, size=images.shape[2:])
        return self.segment(torch.cat((fine, up), 1))


class TokenMixer(nn.Module):
    """A classifier in the manner of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 2, stride=2)
        self.mixer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.classify = nn.Linear(4, 2)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        return self.classify(self.mixer(tokens).mean(1))


class Recording(nn.Module):
    """An identity that calls a function in the middle of a pass."""

    def __init__(self, call) -> None:
        super().__init__()
        self.call = call

    def forward(self, images):
        self.call()
        return images
