"""Replace modules of a network by repaired ones: the causal check of the attribution."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from liederiv.errors import LieDerivError, ModelError

from ..layers.sites import Site, find_sites
from .repairs import Repair, RepairSpec, resolve_repairs

__all__ = ["intervene", "repairable", "replace_module"]


def intervene(
    model: nn.Module,
    modules: str | Iterable[str],
    repair: RepairSpec,
    *,
    example: Tensor | None = None,
) -> nn.Module:
    """A copy of a network in which chosen modules are repaired.

    Args:
        model: any mode; it stays as it is, and the copy has its own parameters with equal values.
        modules: paths in ``named_modules()``; the whole model is ``""``.
        repair: name in `liederiv.analysis.aliasing.repairs.REPAIRS`, a `Repair`, or several, of
            which the first that applies to a module is taken.
        example: images [B, C, H, W] that the model takes. Needed where a module's type does not
            tell how its input is laid out (tokens, NHWC maps); the model must then be in eval mode.

    Returns:
        the repaired copy, in the mode of the original. It supports forward-mode differentiation
        and `torch.func.vmap` as far as the original does.

    Raises:
        LieDerivError: for an unknown module or repair, or one that does not apply.
        ModelError: if the model cannot be copied, or not be run on the example.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU()).eval()
        >>> repaired = intervene(net, ["0", "1"], "auto")
        >>> [type(m).__name__ for m in repaired]
        ['Filtered', 'AliasFreeActivation']
    """
    names = [modules] if isinstance(modules, str) else list(dict.fromkeys(modules))
    repairs = resolve_repairs(repair)
    _check_names(model, names)
    sites = find_sites(model, names, example)
    return _repaired(model, names, repairs, sites)


def repairable(
    model: nn.Module, modules: Iterable[str], repair: RepairSpec, example: Tensor
) -> dict[str, Site]:
    """Those of the modules to which a repair applies, with their sites.

    A module inside another one that can be repaired is left out.

    Args:
        model: in eval mode; not touched.
        modules: paths.
        repair: see `intervene`.
        example: images [B, C, H, W].
    """
    names, repairs = list(dict.fromkeys(modules)), resolve_repairs(repair)
    _check_names(model, names)
    sites = find_sites(model, names, example)
    twin = _copied(model)
    found: dict[str, Site] = {}
    for name in sorted(names, key=lambda path: (path.count("."), bool(path))):
        inside = any(outer and name.startswith(f"{outer}.") for outer in found)
        if not inside and _first(twin.get_submodule(name), sites[name], repairs) is not None:
            found[name] = sites[name]
    return {name: found[name] for name in names if name in found}


def replace_module(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of another; returns the model (the module for the path "")."""
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    return model


def _check_names(model: nn.Module, names: list[str]) -> None:
    known = [path for path, _ in model.named_modules(remove_duplicate=False)]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(map(repr, near))}?" if near else "see named_modules()."
            raise LieDerivError(f"modules: {name!r} is not in the model; {hint}")


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({type(error).__name__}: {error}); a repair works on a "
            "copy so that yours stays untouched: remove what copy.deepcopy refuses."
        ) from error


def _repaired(
    model: nn.Module, names: list[str], repairs: tuple[Repair, ...], sites: Mapping[str, Site]
) -> nn.Module:
    twin = _copied(model)
    for name in sorted(names, key=lambda path: -path.count(".") if path else 1):
        module, known = twin.get_submodule(name), set(twin.modules())
        new = _first(module, sites[name], repairs)
        if new is None:
            raise LieDerivError(_refusal(name, module, repairs, sites[name]))
        for part in set(new.modules()) - known:  # torch makes modules in training mode
            part.training = module.training
        twin = replace_module(twin, name, new)
    return twin


def _first(module: nn.Module, site: Site, repairs: tuple[Repair, ...]) -> nn.Module | None:
    found = (repair.apply(module, site) for repair in repairs)
    return next((new for new in found if new is not None), None)


def _refusal(name: str, module: nn.Module, repairs: tuple[Repair, ...], site: Site) -> str:
    what = " or ".join(f"{r.name} ({r.applies_to})" for r in repairs)
    where = repr(name) if name else "'' (the whole model)"
    text = f"modules: {where} is a {type(module).__name__}, to which repair {what} does not apply"
    if site.why:
        return f"{text}: {site.why}; choose another module or repair."
    if not site.inputs:
        return f"{text}; choose another, or pass example=images so that its layout is recognised."
    return f"{text}; choose another module or repair."
