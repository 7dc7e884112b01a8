"""The configurations of the paper: ShapeNet part segmentation, QM9, CMU motion capture.

Source: arXiv 2501.01999, section 5 and appendix, and the default settings of the authors' public
training scripts. Their weights do not ship with liederiv; a checkpoint of one's own fits.
"""

from __future__ import annotations

from .config import RapidashConfig
from .inputs import RapidashInputs
from .variants import Variant

__all__ = ["CATEGORIES", "PAPER", "PARTS"]

CATEGORIES, PARTS = 16, 50  # ShapeNet's kinds of objects and their parts
ATOM_FEATURES = 11  # per atom in QM9, as PyTorch Geometric gives them


def _shapenet() -> Variant:
    inputs = RapidashInputs((("category", CATEGORIES),), (), ("normals", "pose"))
    config = RapidashConfig(
        input_dim=sum(inputs.width(3)),
        hidden_dim=256,
        output_dim=PARTS,
        num_layers=(0, 1, 1, 1, 1),
        edge_types=("knn-8", "knn-8", "knn-8", "knn-8", "fc"),
        ratios=(0.25, 0.25, 0.25, 0.25),
        knn_flow="send",
        basis_dim=256,
        basis_hidden_dim=128,
    )
    return Variant("rapidash_shapenet", config, inputs, "scalars", augment=True)


def _qm9() -> Variant:
    inputs = RapidashInputs((("atom", ATOM_FEATURES),))
    config = RapidashConfig(
        input_dim=sum(inputs.width(3)),
        hidden_dim=256,
        output_dim=1,
        num_layers=7,
        task_level="graph",
        basis_hidden_dim=128,
    )
    return Variant("rapidash_qm9", config, inputs, "scalars", augment=True)


def _cmu() -> Variant:
    inputs = RapidashInputs((), (), ("velocity", "pose"))
    config = RapidashConfig(
        input_dim=sum(inputs.width(3)),
        hidden_dim=256,
        output_dim=0,
        output_dim_vec=1,
        num_layers=7,
        basis_dim=256,
        basis_hidden_dim=128,
    )
    return Variant("rapidash_cmu", config, inputs, "vector", augment=True)


PAPER: dict[str, Variant] = {v.name: v for v in (_shapenet(), _qm9(), _cmu())}
"""The paper's main configurations by name."""
