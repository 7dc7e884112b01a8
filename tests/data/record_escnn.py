"""Record a steerable layer of escnn, for a test that does not need escnn.

escnn 1.0.11 needs numpy < 2, so it cannot be installed beside the rest of the test tools. In an
environment of its own (``pip install 'numpy<2' escnn safetensors``):

    python tests/data/record_escnn.py

writes ``escnn_layer.safetensors``: the layer as escnn exports it (a plain convolution), its output
on an image, and the matrices by which escnn's own `rot2dOnR2` turns its fibres.
"""

from pathlib import Path

import torch
from escnn import gspaces
from escnn import nn as enn
from safetensors.torch import save_file

ANGLES = (0.4, -1.1)


def main() -> None:
    """Build the layer, and write what it does."""
    torch.manual_seed(0)
    space = gspaces.rot2dOnR2(N=-1, maximum_frequency=3)
    scalar = enn.FieldType(space, [space.trivial_repr])
    fields = enn.FieldType(space, [space.irrep(m) for m in range(4)])
    layer = enn.R2Conv(scalar, fields, kernel_size=13, padding=6, bias=False).double().eval()
    image = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    group = space.fibergroup
    turns = [torch.tensor(fields.representation(group.element(a))) for a in ANGLES]
    save_file(
        {
            "weight": layer.export().weight.detach().contiguous(),
            "image": image,
            "output": layer(enn.GeometricTensor(image, scalar)).tensor.detach(),
            "angles": torch.tensor(ANGLES, dtype=torch.float64),
            "fibre_matrices": torch.stack(turns).double(),
        },
        Path(__file__).with_name("escnn_layer.safetensors"),
    )


if __name__ == "__main__":
    main()
