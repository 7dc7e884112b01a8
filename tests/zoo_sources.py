"""A source of models that tests register: `strip:W` is a classifier W channels wide."""

import torch
from torch import nn

from liederiv.model_zoo import DataConfig, ModelEntry, register_source
from liederiv.model_zoo.sources.image_source import Built, ImageSource

CONFIG = DataConfig(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


def strip(width):
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)]
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.GELU(), *pooled)


@register_source
class Strips(ImageSource):
    """Networks of one width each."""

    prefixes = ("strip",)

    @classmethod
    def entries(cls, pattern="*", pretrained=False):
        found = [ModelEntry(f"strip:{w}", (), False, True) for w in (4, 6)]
        return [e for e in found if pattern in ("*", "strip*") and not pretrained]

    def build(self, wanted):
        model = strip(int(self.name.partition(":")[2]))
        if wanted.checkpoint is not None:
            model.load_state_dict(wanted.checkpoint.state_dict)
        return Built(model, f"random (seed {wanted.seed})", CONFIG)

    def identity(self, pretrained):
        return {"strip": self.name}


def weights_of(width, seed):
    """What `load` must give."""
    torch.manual_seed(seed)
    return strip(width).state_dict()
