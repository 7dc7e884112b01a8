r"""Outputs that are places in the image: key points and boxes, which move with what they mark.

The transform (T_t x)(q) = x(φ_t(q)) moves what is at q to φ_t⁻¹(q), so a place transforms by
X_out q = −ξ(q): `translation_x` moves pictures, and the points that mark them, to the left.

Conventions differ, so all are said:

* which numbers: `Coordinates.form`, x before y unless it says ``yx``;
* their unit: pixels of the input, shares of its width and height (0 … 1), or −1 … 1;
* where they count from. With ``half_pixel`` the image reaches from its left edge, 0, to its right
  edge, W pixels (or 1), and the first pixel's centre is at half a pixel: boxes of COCO,
  torchvision and DETR, ``grid_sample(align_corners=False)``. Without, from the centre of the first
  pixel, 0, to that of the last, W − 1 pixels (or 1): indices, an argmax,
  ``align_corners=True``.

Boxes stay upright under translations, scalings and stretches. What a rotation or a shear makes of
one is not defined and refused, but for quarter turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from liederiv.actions import Action
from liederiv.base_representation import Representation, on_images
from liederiv.errors import UnknownLayoutError

__all__ = ["Coordinates"]

_H = 0.5
# By form: the matrix from the entries to (x, y) of a point, or of the middle and (w, h) of a box.
_FORMS: dict[str, list[list[float]]] = {
    "xy": [[1, 0], [0, 1]],
    "yx": [[0, 1], [1, 0]],
    "xyxy": [[_H, 0, _H, 0], [0, _H, 0, _H], [-1, 0, 1, 0], [0, -1, 0, 1]],
    "yxyx": [[0, _H, 0, _H], [_H, 0, _H, 0], [0, -1, 0, 1], [-1, 0, 1, 0]],
    "xywh": [[1, 0, _H, 0], [0, 1, 0, _H], [0, 0, 1, 0], [0, 0, 0, 1]],
    "cxcywh": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
}


@dataclass(frozen=True)
class Coordinates(Representation):
    """Key points or boxes [B, …, n], one or several after each other on the last axis.

    Attributes:
        form: ``xy`` or ``yx`` of points; of boxes two corners, ``xyxy`` or ``yxyx``, the upper left
            corner and the size, ``xywh``, or the middle and the size, ``cxcywh``.
        unit: ``pixels`` of the input, ``share`` of its width and height, or ``signed``, from −1 at
            the left and top to 1 at the right and bottom.
        half_pixel: where they count from, see the module's docstring.

    Example:
        >>> Coordinates("cxcywh", "share")  # DETR's boxes
        Coordinates(form='cxcywh', unit='share', half_pixel=True)
    """

    form: Literal["xy", "yx", "xyxy", "yxyx", "xywh", "cxcywh"] = "xy"
    unit: Literal["pixels", "share", "signed"] = "pixels"
    half_pixel: bool = True

    may_be_classes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.form not in _FORMS or self.unit not in ("pixels", "share", "signed"):
            raise UnknownLayoutError(
                f"{self} is unknown; form is one of {', '.join(_FORMS)}, unit one of pixels, "
                "share, signed."
            )

    @property
    def entries(self) -> int:
        """Numbers for each point or box."""
        return len(_FORMS[self.form])

    def check(self, y: Tensor) -> None:
        """Raise `UnknownLayoutError` unless y can be such coordinates."""
        if y.ndim < 2 or not y.shape[-1] or y.shape[-1] % self.entries:
            raise UnknownLayoutError(
                f"output={self} needs {self.entries} numbers for each on the last axis; found "
                f"{list(y.shape)}."
            )

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`.

        Raises:
            UnknownLayoutError: for boxes under generators that do not keep them upright.
        """
        images = on_images(action, self)
        place, size = self.split(y, images.height, images.width)
        field = images.affine.to(place)
        A, b = field[..., :2], field[..., 2]
        b = b.reshape(len(b), *[1] * (place.ndim - 1), 2)
        moved = -(torch.einsum("kij,...j->k...i", A, place) + b)
        if size is None:
            return self._join(moved, None, y, images.height, images.width)
        for g, matrix in zip(images.generators, A, strict=True):
            if matrix[0, 1] or matrix[1, 0]:
                raise UnknownLayoutError(f"output={self}: {_NOT_UPRIGHT.format(g.name)}")
        grown = -torch.einsum("kij,...j->k...i", A, size)
        return self._join(moved, grown, y, images.height, images.width)

    def move(self, points: Tensor, y: Tensor, height: float, width: float) -> Tensor:
        """Coordinates y moved by affine maps.

        Args:
            points: where a point goes, [A | b] in pixels from the image's middle, [B or 1, 2, 3].
            y: coordinates [B, …].
            height: of the input in pixels.
            width: of the input in pixels.

        Raises:
            UnknownLayoutError: for boxes under maps that do not keep them upright.
        """
        place, size = self.split(y, height, width)
        points = points.to(place)
        A, b = points[..., :2], points[..., 2]
        A = A.reshape(len(A), *[1] * (place.ndim - 2), 2, 2)
        b = b.reshape(len(b), *[1] * (place.ndim - 2), 2)
        place = (A @ place[..., None])[..., 0] + b
        if size is not None:
            if A.abs().amin(-1).max() > 1e-12:  # a box stays one if each row has one entry
                raise UnknownLayoutError(f"output={self}: {_NOT_UPRIGHT.format('the transform')}")
            size = (A.abs() @ size[..., None])[..., 0]
        half = self._join(place, size, y, height, width)
        return half + self._origin(y, height, width)

    def split(self, y: Tensor, height: float, width: float) -> tuple[Tensor, Tensor | None]:
        """Places [B, …, n, 2] in pixels from the image's middle, and sizes in pixels, float64."""
        self.check(y)
        each = y.double().unflatten(-1, (-1, self.entries)) @ self._matrix(y).mT
        scale, middle = self._scale(y, height, width)
        place = (each[..., :2] - middle) * scale
        return place, each[..., 2:] * scale if self.entries == 4 else None

    def _join(
        self, place: Tensor, size: Tensor | None, y: Tensor, height: float, width: float
    ) -> Tensor:
        """Places and sizes in pixels as entries like y, but for where they count from."""
        scale, _ = self._scale(y, height, width)
        each = place if size is None else torch.cat([place, size], -1)
        each = each / (scale if size is None else torch.cat([scale, scale]))
        return (each @ torch.linalg.inv(self._matrix(y)).mT).flatten(-2).to(y.dtype)

    def _origin(self, y: Tensor, height: float, width: float) -> Tensor:
        """Entries of the image's middle, of size 0, [n]."""
        _, middle = self._scale(y, height, width)
        each = torch.zeros(self.entries, dtype=torch.float64, device=y.device)
        each[:2] = middle
        one = each @ torch.linalg.inv(self._matrix(y)).mT
        return one.repeat(y.shape[-1] // self.entries).to(y.dtype)

    def _matrix(self, y: Tensor) -> Tensor:
        return torch.tensor(_FORMS[self.form], dtype=torch.float64, device=y.device)

    def _scale(self, y: Tensor, height: float, width: float) -> tuple[Tensor, Tensor]:
        """Pixels per unit along x and y, and the coordinates of the image's middle."""
        less = 0 if self.half_pixel else 1
        size = torch.tensor([width - less, height - less], dtype=torch.float64, device=y.device)
        half = torch.full_like(size, 0.5)
        if self.unit == "pixels":
            return torch.ones_like(size), size / 2
        return (size, half) if self.unit == "share" else (size / 2, torch.zeros_like(size))


_NOT_UPRIGHT = (
    "{} does not keep boxes upright, so what becomes of them is not defined; measure "
    "translation, scale and stretch, or declare their middles as points."
)
