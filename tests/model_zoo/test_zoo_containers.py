"""Containers of training scripts: exactly the weights in them are loaded, or a sentence says why.

Whatever stands around the weights, no other numbers are ever taken for them.
"""

import copy
import tempfile
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from liederiv.errors import ModelError
from liederiv.model_zoo import load, read_checkpoint, weights_fingerprint
from liederiv.model_zoo.weights.fitting import Fitted, find_weights, load_weights
from liederiv.model_zoo.weights.parts import Target

ARCH = "resnet10t"


class Block(nn.Module):
    """A residual block with every kind of tensor: parameters, statistics, a counter, a scalar."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.scale * self.norm(self.conv(x)).mean((2, 3)))


def made(seed):
    """A block with random weights and statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    model = Block().eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def opened(tmp_path, content, model=None):
    """The model after loading, and what was said."""
    torch.save(content, tmp_path / "c.pth")
    file = read_checkpoint(tmp_path / "c.pth")
    model = made(99) if model is None else model
    found = find_weights(file, model, Target.of(model))
    if not isinstance(found, Fitted):
        raise ModelError(found.describe())
    return model, load_weights(file, found, model)


def sd(seed):
    return dict(made(seed).state_dict())


def prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


def inner(wrapper, state):
    """The wrapper around every submodule, as FSDP and activation checkpointing put it."""
    return {k if "." not in k else k.replace(".", f".{wrapper}.", 1): v for k, v in state.items()}


NOISE = {
    "best_acc1": torch.tensor(71.0),
    "metric": torch.tensor([0.3]),
    "epoch": 3,
    "optimizer": {
        "state": {i: {"exp_avg": torch.rand(4, 3, 3, 3), "step": torch.tensor(5)} for i in range(3)}
    },
    "rng_state": torch.arange(5000, dtype=torch.uint8),
    "log": [{"loss": torch.tensor(0.2)}],
}

CONTAINERS = {
    "metrics beside": lambda: {"state_dict": sd(1), **NOISE},
    "metrics among": lambda: {**sd(1), "best_acc1": torch.tensor(1.0), "epoch": torch.tensor(2)},
    "counters among": lambda: {
        **sd(1), "conv.total_ops": torch.zeros(1), "n_averaged": torch.ones(1)
    },
    "ema": lambda: {"ema": sd(1), "model": sd(2)},
    "ema behind": lambda: {"model": sd(2), "ema": {"module": sd(1), "decay": torch.tensor(0.9)}},
    "params_ema": lambda: {"params": sd(2), "params_ema": sd(1)},
    "state_dict_ema": lambda: {"state_dict": sd(2), "state_dict_ema": sd(1), **NOISE},
    "model_ema": lambda: {"model_ema": sd(1), "model": sd(2)},
    "ema_model": lambda: {"ema_model": prefixed("module.", sd(1)), "model": sd(2)},
    "ema is none": lambda: {"ema": None, "model": sd(1)},
    "ema does not fit": lambda: {"ema": {"x": torch.ones(3)}, "model": sd(1)},
    "lightning": lambda: {"state_dict": prefixed("model.", sd(1)), "callbacks": {"E": {"best": 1}}},
    "lightning ema": lambda: {
        "state_dict": prefixed("net.", sd(2)),
        "callbacks": {"EMA{'decay': 0.99}": {"ema_state_dict": prefixed("net.", sd(1))}},
    },
    "swa": lambda: {
        "state_dict": sd(2),
        "swa_model": {**prefixed("module.", sd(1)), "n_averaged": torch.tensor(4)},
    },
    "ddp": lambda: prefixed("module.", sd(1)),
    "compiled": lambda: prefixed("_orig_mod.", sd(1)),
    "compiled within": lambda: inner("_orig_mod", sd(1)),
    "fsdp": lambda: prefixed("_fsdp_wrapped_module.", inner("_fsdp_wrapped_module", sd(1))),
    "checkpointed": lambda: inner("_checkpoint_wrapped_module", sd(1)),
    "both": lambda: prefixed(
        "_fsdp_wrapped_module.",
        inner("_fsdp_wrapped_module._checkpoint_wrapped_module", sd(1)),
    ),
    "backbone": lambda: {
        "state_dict": {**prefixed("backbone.", sd(1)), "head.weight": torch.rand(9, 9)}
    },
    "encoder": lambda: {"model": {**prefixed("encoder.", sd(1)), "decoder.w": torch.rand(900)}},
    "module.model.": lambda: {"weights": prefixed("module.model._orig_mod.", sd(1))},
    "student and teacher": lambda: {"student": sd(2), "teacher": sd(1)},
    "both in one dictionary": lambda: {
        **prefixed("student.", sd(2)), **prefixed("teacher.backbone.", sd(1))
    },
    "containers on both sides": lambda: {
        "model": {"state_dict": sd(2)}, "model_ema": {"module": sd(1)}
    },
    "student of another shape": lambda: {"teacher": {"w": torch.ones(900)}, "student": sd(1)},
    "flat with ema": lambda: {**sd(2), **prefixed("ema_model.module.", sd(1))},
    "flat student and averaged teacher": lambda: {
        "state_dict": {**prefixed("student.", sd(2)), **prefixed("teacher_ema.", sd(1))}
    },
    "nested": lambda: {"a": {"b": {"c": prefixed("model.", sd(1))}}},
    "in a list": lambda: {"models": [sd(1)], "names": ["x"]},
    "the list itself": lambda: [sd(1), {"state": {}}],
    "the tuple itself": lambda: (3, prefixed("module.", sd(1))),
    "twice the same": lambda: {"model": sd(1), "best_model": sd(1)},
    "optimizer by name": lambda: {
        "model": sd(1), "optimizer": {"exp_avg": sd(2), "exp_avg_sq": sd(3)}
    },
    "gradients": lambda: {"model": sd(1), "grads": sd(2)},
    "in modules": lambda: {
        "conv": {"weight": sd(1)["conv.weight"], "bias": sd(1)["conv.bias"]},
        **{k: v for k, v in sd(1).items() if not k.startswith("conv.")},
    },
    "without counters": lambda: {k: v for k, v in sd(1).items() if "num_batches" not in k},
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_container_gives_exactly_its_weights(tmp_path, name):
    model, _ = opened(tmp_path, CONTAINERS[name](), made(0))
    expected = made(1)
    model.norm.num_batches_tracked.zero_()
    assert weights_fingerprint(model) == weights_fingerprint(expected)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(model(x), expected(x))


REFUSED = {
    "two": (lambda: {"online": sd(1), "target": sd(2)}, "2 sets .*differ: 'online', 'target'"),
    "list": (lambda: {"models": [sd(1), sd(2)]}, "2 sets of weights .*differ"),
    "two averages": (
        lambda: {"ema_0.99": sd(1), "ema_0.999": sd(2), "model": sd(3)},
        "3 sets of weights .*differ",
    ),
    "best and last": (lambda: {"state_dict": sd(1), "best": sd(2)}, "differ"),
    "flat and module": (lambda: {**sd(1), **prefixed("module.", sd(2))}, "differ"),
    "only an optimizer": (lambda: {"optimizer": {"exp_avg": sd(1)}}, "missing|differ"),
    "only gradients": (lambda: {"grads": sd(1)}, "missing"),
    "a tensor too many": (lambda: {**sd(1), "conv2.weight": torch.ones(3)}, "1 unexpected"),
    "a scalar too many": (lambda: {**sd(1), "logit_scale": torch.ones(())}, "1 unexpected"),
    "a metric inside": (lambda: {**sd(1), "conv.loss": torch.ones(())}, "1 unexpected"),
    "a tensor too few": (
        lambda: {"model": {k: v for k, v in sd(1).items() if k != "scale"}},
        r"1 missing \(scale\)",
    ),
    "another shape": (lambda: {**sd(1), "conv.weight": torch.ones(4, 3, 5, 5)}, "another shape"),
    "head of others": (lambda: {**sd(1), "head.weight": torch.ones(7, 4)}, "another shape"),
    "huge claim": (lambda: {**sd(1), "scale": torch.ones(1).expand(10**12)}, "another shape"),
    "empty tensors": (lambda: {k: v.new_empty(0) for k, v in sd(1).items()}, "another shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_container_is_refused_in_one_sentence(tmp_path, name):
    make, message = REFUSED[name]
    with pytest.raises(ModelError, match=message) as info:
        opened(tmp_path, make())
    assert "\n" not in str(info.value)


def test_a_part_can_be_named(tmp_path):
    torch.save({"student": sd(1), "teacher": {"backbone": sd(2)}}, tmp_path / "c.pth")
    for key, seed in (("student", 1), ("teacher", 2), ("teacher.backbone", 2)):
        file = read_checkpoint(f"{tmp_path}/c.pth#{key}")
        model = made(0)
        load_weights(file, find_weights(file, model, Target.of(model)), model)
        assert torch.equal(model.conv.weight, made(seed).conv.weight)
    with pytest.raises(
        ModelError, match="no tensors under 'nobody'; name what it has: student, te"
    ):
        read_checkpoint(f"{tmp_path}/c.pth#nobody")
    torch.save(sd(3), tmp_path / "c.pth#student")  # a file that is called so comes first
    assert "conv.weight" in read_checkpoint(tmp_path / "c.pth#student").state_dict


def test_what_was_taken_is_said(tmp_path):
    _, said = opened(tmp_path, CONTAINERS["state_dict_ema"]())
    assert said.startswith(" (averaged weights under 'state_dict_ema'; ")
    assert "taken before the raw ones in 'state_dict', as timm does" in said
    assert "c.pth#state_dict'" in said
    _, said = opened(tmp_path, {"ema": {"x": torch.ones(3)}, "model": sd(1)})
    assert said == (
        " (raw weights under 'model'; other tensors of the checkpoint were left out: ema (1))"
    )
    _, said = opened(tmp_path, CONTAINERS["both in one dictionary"]())
    assert "averaged weights, prefix 'teacher.backbone.' removed" in said
    assert "before the raw ones in 'student', " in said
    _, said = opened(tmp_path, CONTAINERS["backbone"]())
    assert "raw weights under 'state_dict', prefix 'backbone.' removed; " in said
    assert "state_dict.head (1)" in said
    _, said = opened(tmp_path, CONTAINERS["checkpointed"]())
    assert said == ""
    _, said = opened(tmp_path, CONTAINERS["metrics among"]())
    assert said == " (metrics among the weights were left out: best_acc1, epoch)"
    half = {k: v.half() if v.is_floating_point() else v for k, v in sd(1).items()}
    assert opened(tmp_path, half)[1] == " (9 tensors are stored as float16)"
    assert opened(tmp_path, sd(1))[1] == ""


def test_a_piece_of_a_network_is_not_taken_for_one(tmp_path):
    """A layer that happens to have the shapes of a small model is not that model."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(300, 400))
    with pytest.raises(ModelError, match="another shape"):
        opened(tmp_path, net.state_dict(), nn.Linear(2, 3))


def unusable(kind):
    state = sd(1)
    weight = state["conv.weight"]
    changed = {
        "sparse": lambda: weight.to_sparse(),
        "csr": lambda: state["head.weight"].to_sparse_csr(),
        "quantised": lambda: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "meta": lambda: weight.to("meta"),
        "complex": lambda: weight.to(torch.complex64),
        "int8": lambda: weight.to(torch.int8),
        "bool": lambda: weight > 1,
        "float8": lambda: weight.to(torch.float8_e4m3fn),
        "nan": lambda: weight.clone().index_fill_(0, torch.tensor([1]), float("nan")),
        "infinite": lambda: weight.clone().index_fill_(0, torch.tensor([1]), float("inf")),
        "too large": lambda: weight.double() * 1e300,
    }[kind]()
    return {**state, "head.weight" if kind == "csr" else "conv.weight": changed}


UNUSABLE = {
    "sparse": "are sparse_coo, not dense",
    "csr": "are sparse_csr, not dense",
    "quantised": "are quantised",
    "meta": "are on the meta device",
    "complex": "are of dtype torch.complex64 where the model has torch.float32",
    "int8": "are of dtype torch.int8 .* without their scale",
    "bool": "are of dtype torch.bool",
    "float8": "are of dtype torch.float8_e4m3fn .* without their scale",
    "nan": "hold 27 NaN or infinite values; the training has diverged",
    "infinite": "hold 27 NaN or infinite values",
    "too large": "beyond the range of torch.float32",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNUSABLE)
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}])
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, kind, wrap):
    model = made(0)
    before = weights_fingerprint(model)
    with pytest.raises(ModelError, match=UNUSABLE[kind]) as info:
        opened(tmp_path, wrap(unusable(kind)), model)
    assert "\n" not in str(info.value)
    assert weights_fingerprint(model) == before


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_and_other_classes_are_refused(tmp_path):
    with pytest.raises(ModelError, match="another shape"):
        opened(tmp_path, {**sd(1), "conv.weight": torch.nested.nested_tensor([torch.ones(3)] * 4)})
    assert opened(tmp_path, {k: nn.Parameter(v, False) for k, v in sd(1).items()})


def test_infinities_of_the_model_itself_may_stay(tmp_path):
    def masked():
        model = nn.Linear(2, 2)
        model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        return model

    model, donor = masked(), masked()
    opened(tmp_path, donor.state_dict(), model)
    assert torch.equal(model.weight, donor.weight)


def test_self_references_depth_and_shared_tensors(tmp_path):
    loop = {"state_dict": sd(1)}
    loop["self"] = loop
    loop["list"] = [loop, {"again": loop}]
    model, _ = opened(tmp_path, loop)
    assert torch.equal(model.conv.weight, made(1).conv.weight)
    deep = sd(1)
    for _ in range(200):
        deep = {"a": deep}
    with pytest.raises(ModelError, match="nested more than 64 levels deep"):
        opened(tmp_path, deep)
    wide = sd(1)
    for _ in range(60):  # 2^60 paths through 60 containers
        wide = {"a": wide, "b": wide}
    with pytest.raises(ModelError, match="nested more than 64 levels deep") as info:
        opened(tmp_path, {"x": {"y": {"z": {"u": {"v": {"w": wide}}}}}})
    assert "\n" not in str(info.value)
    shared = torch.rand(4, 4)
    tied = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    opened(tmp_path, {"model": {"0.weight": shared, "1.weight": shared.t()}}, tied)
    assert torch.equal(tied[0].weight, tied[1].weight.t())


KEYS = st.sampled_from(
    [
        "state_dict",
        "model",
        "ema",
        "net",
        "params_ema",
        "weights",
        "x.y",
        "module",
        "callbacks",
        "é",
    ]
)
PREFIXES = st.sampled_from(
    ["", "module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "module.model.",
     "_fsdp_wrapped_module.", "anything."]
)  # fmt: skip
WRAPPERS = st.sampled_from(
    ["", "", "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
SCALARS = st.dictionaries(
    st.sampled_from(["best_acc1", "metric", "epoch", "loss", "lr", "best_acc5", "global_step"]),
    st.sampled_from([1, "text", None, torch.tensor(3.0), torch.tensor([2]), torch.tensor(5)]),
)
EXTRAS = st.dictionaries(
    st.sampled_from(["optimizer", "history", "queue", "scheduler", "head"]),
    st.sampled_from(
        [
            torch.rand(7, 300),
            {"state": {0: {"exp_avg": torch.rand(4, 3, 3, 3)}}},
            {"exp_avg": sd(5)},
            [torch.rand(3), {"x": torch.rand(2)}],
            {"weight": torch.rand(5, 4), "bias": torch.rand(5)},
        ]
    ),
)
LEVELS = st.lists(st.tuples(KEYS, SCALARS, EXTRAS), max_size=4)


def nested(state, prefix, wrapper, levels, metrics):
    content = {**prefixed(prefix, inner(wrapper, state) if wrapper else state), **metrics}
    for key, scalars, extras in levels:
        content = {**scalars, **extras, key: content}
    return content


_FOLDER = tempfile.TemporaryDirectory()  # hypothesis takes no fixtures of one test


def folder():
    return Path(_FOLDER.name)


@settings(deadline=None, max_examples=150)
@given(PREFIXES, WRAPPERS, LEVELS, SCALARS)
def test_any_nesting_loads_exactly_the_weights(prefix, wrapper, levels, metrics):
    tensors_only = {k: v for k, v in metrics.items() if isinstance(v, torch.Tensor)}
    content = nested(sd(1), prefix, wrapper, levels, tensors_only)
    model, _ = opened(folder(), content, made(0))
    assert weights_fingerprint(model) == weights_fingerprint(made(1))


@settings(deadline=None, max_examples=150)
@given(PREFIXES, PREFIXES, WRAPPERS, LEVELS, KEYS, KEYS)
def test_two_sets_of_weights_are_told_apart(first, second, wrapper, levels, one, other):
    """Of two networks in one file the averaged one is taken, or none."""
    a, b = nested(sd(1), first, wrapper, [], {}), nested(sd(2), second, "", [], {})
    content = {**{one: a}, **{other: b}} if one != other else {one: a, "second": b}
    for key, scalars, extras in levels:
        content = {**scalars, **extras, key: content}
    averages = [seed for seed, key in ((1, one), (2, other)) if "ema" in key and one != other]
    if one == other and "ema" in one:
        averages = [1]
    above = any("ema" in key for key, _, _ in levels)
    model = made(0)
    if len(averages) == 1 and not above:
        opened(folder(), content, model)
        assert weights_fingerprint(model) == weights_fingerprint(made(averages[0]))
        return
    with pytest.raises(ModelError, match="sets of weights that fit, and they differ"):
        opened(folder(), content, model)
    assert weights_fingerprint(model) == weights_fingerprint(made(0))


@settings(deadline=None, max_examples=100)
@given(PREFIXES, WRAPPERS, LEVELS, st.data())
def test_damaged_weights_are_never_loaded(prefix, wrapper, levels, data):
    """One tensor gone, renamed or of another shape: nothing fits, whatever stands around."""
    state = sd(1)
    required = sorted(k for k in state if "num_batches" not in k)
    name = data.draw(st.sampled_from(required))
    damage = data.draw(st.sampled_from(["gone", "renamed", "shape"]))
    tensor = state.pop(name)
    if damage == "renamed":
        state[f"{name}_"] = tensor
    elif damage == "shape":
        state[name] = torch.rand(*tensor.shape, 2)
    model = made(0)
    with pytest.raises(ModelError):
        opened(folder(), nested(state, prefix, wrapper, levels, {}), model)
    assert weights_fingerprint(model) == weights_fingerprint(made(0))


def test_a_timm_model_says_what_was_resampled(tmp_path):
    donor = timm.create_model("test_vit").eval()
    torch.save({"model": donor.state_dict(), "best_acc1": torch.tensor(1.0)}, tmp_path / "v.pth")
    loaded = load("test_vit", tmp_path / "v.pth", img_size=96)
    assert loaded.weights == (
        "checkpoint v.pth (raw weights under 'model'; "
        "position embedding resampled: pos_embed [1, 101, 64] → [1, 37, 64])"
    )
    foreign = {f"trunk.x.{k}": v for k, v in donor.state_dict().items()}
    torch.save({"sd": foreign, "model_ema": None}, tmp_path / "f.pth")
    assert "prefix 'trunk.x.' removed" in load("test_vit", tmp_path / "f.pth").weights


def test_classes_are_those_of_the_part_that_fits(tmp_path):
    ten, seven = (timm.create_model(ARCH, num_classes=n) for n in (10, 7))
    content = {"pretrained": ten.state_dict(), "finetuned": seven.state_dict()}
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ModelError, match="differ: 'pretrained', 'finetuned'"):
        load(ARCH, tmp_path / "c.pth")
    assert load(ARCH, tmp_path / "c.pth", num_classes=7).num_classes == 7
    assert load(ARCH, f"{tmp_path}/c.pth#pretrained").num_classes == 10
    with pytest.raises(ModelError, match="differ"):
        load(ARCH, tmp_path / "c.pth", num_classes=0)
    headless = {k: v for k, v in ten.state_dict().items() if not k.startswith("fc.")}
    torch.save({"state_dict": prefixed("backbone.", headless)}, tmp_path / "h.pth")
    with pytest.raises(ModelError, match="holds no classifier, so load it with `num_classes`=0"):
        load(ARCH, tmp_path / "h.pth")
    kept = copy.deepcopy(headless)
    loaded = load(ARCH, tmp_path / "h.pth", num_classes=0)
    assert all(torch.equal(v, kept[k]) for k, v in loaded.model.state_dict().items())


def test_ordinary_arguments_pass():
    kwargs = {"drop_rate": 0.1, "act_layer": "gelu", "in_chans": 1}
    assert load(ARCH, pretrained=False, model_kwargs=kwargs).data_config.input_size[0] == 1
