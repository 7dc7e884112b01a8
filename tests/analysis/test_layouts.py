"""Layout recognition against expectations written by hand, one architecture at a time."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from liederiv.actions import ImageAction
from liederiv.analysis import Layout, LayoutRecogniser
from liederiv.analysis.layers.capture import measured_copy, scout
from liederiv.analysis.layers.layouts import positions
from liederiv.differentiation import forward_mode, pushforward
from liederiv.generators import resolve_generators

IMAGE = "NCHW 224×224"
UNKNOWN = "?"


def maps(*sides):
    return [f"NCHW {s}×{s}" for s in sides]


M112, M56, M28, M14, M7 = maps(112, 56, 28, 14, 7)
L14, L7 = "NHWC 14×14", "NHWC 7×7"
T14, C14 = "NLC 14×14", "NLC 1+14×14"

# model (timm name, arguments): path -> (input layouts, output layouts) of its first call
EXPECTED = {
    ("resnet18", ()): {
        "conv1": (IMAGE, M112),
        "maxpool": (M112, M56),
        "layer1.0": (M56, M56),
        "layer2.0": (M56, M28),
        "layer2.0.conv1": (M56, M28),
        "layer2.0.downsample": (M56, M28),
        "layer4.1.act2": (M7, M7),
        "global_pool": (M7, "vector"),
        "fc": ("vector", "vector"),
    },
    ("regnety_002", ()): {
        "stem": (IMAGE, M112),
        "s1.b1": (M112, M56),
        "s4.b7.se": (M7, M7),
        "s4.b7.se.fc1": ("vector", "vector"),
        "head.global_pool": (M7, "vector"),
    },
    ("convnext_atto", ()): {
        "stem.0": (IMAGE, M56),
        "stages.1.downsample.1": (M56, M28),
        "stages.3.blocks.1.conv_dw": (M7, M7),
        "head.global_pool": (M7, "vector"),
    },
    ("convnext_tiny", (("depths", (1, 1, 1, 1)),)): {
        "stages.2.blocks.0.conv_dw": (M14, M14),
        "stages.2.blocks.0.norm": (L14, L14),
        "stages.2.blocks.0.mlp.act": (L14, L14),
        "stages.3.blocks.0.mlp": (L7, L7),
        "stages.3.blocks.0": (M7, M7),
    },
    ("tf_efficientnet_lite0", ()): {
        "conv_stem": (IMAGE, M112),
        "blocks.1.0.conv_dw": (M112, M56),
        "blocks.6.0.bn3": (M7, M7),
        "global_pool": (M7, "vector"),
    },
    ("densenet121", ()): {
        "features.pool0": (M112, M56),
        "features.denseblock1": (M56, M56),
        "features.denseblock1.denselayer3": (", ".join([M56] * 3), M56),
        "features.transition1.pool": (M56, M28),
        "features.norm5": (M7, M7),
    },
    ("vgg11", ()): {
        "features.0": (IMAGE, IMAGE),
        "features.2": (IMAGE, M112),
        "features.20": (M14, M7),
        "pre_logits.fc1": (M7, "vector"),
        "pre_logits.act1": ("vector", "vector"),
    },
    ("mobilenetv3_small_050", ()): {
        "blocks.0.0.se": (M56, M56),
        "blocks.0.0.se.act1": ("vector", "vector"),
        "blocks.5.0": (M7, M7),
        "act2": ("vector", "vector"),
    },
    ("mixer_s16_224", ()): {
        "stem": (IMAGE, T14),
        "stem.proj": (IMAGE, M14),
        "blocks.0": (T14, T14),
        "blocks.0.mlp_tokens": ("NCL 14×14", "NCL 14×14"),
        "blocks.0.mlp_tokens.act": (UNKNOWN, UNKNOWN),  # 256 hidden units are no 16 × 16 grid
        "blocks.0.mlp_channels.act": (T14, T14),
    },
    ("resmlp_12_224", ()): {
        "blocks.0.norm1": (T14, T14),
        "blocks.0.linear_tokens": ("NCL 14×14", "NCL 14×14"),
        "blocks.0.mlp_channels.fc1": (T14, T14),
    },
    ("gmlp_ti16_224", ()): {
        "blocks.0.mlp_channels.gate": (T14, T14),
        "blocks.0.mlp_channels.gate.proj": ("NCL 14×14", "NCL 14×14"),
    },
    ("vit_tiny_patch16_224", (("depth", 2),)): {
        "patch_embed": (IMAGE, T14),
        "pos_drop": (C14, C14),
        "blocks.0.attn": (C14, C14),
        "blocks.0.attn.qkv": (C14, C14),
        "blocks.0.attn.q_norm": (UNKNOWN, UNKNOWN),
        "blocks.1.mlp.act": (C14, C14),
        "fc_norm": ("vector", "vector"),
    },
    ("vit_small_patch14_reg4_dinov2", (("depth", 1), ("img_size", 224))): {
        "patch_embed": (IMAGE, "NLC 16×16"),
        "blocks.0": ("NLC 5+16×16", "NLC 5+16×16"),
    },
    ("deit_tiny_distilled_patch16_224", (("depth", 2),)): {
        "blocks.0": ("NLC 2+14×14", "NLC 2+14×14"),
        "head": ("vector", "vector"),
        "head_dist": ("vector", "vector"),
    },
    ("beit_base_patch16_224", (("depth", 1),)): {
        "blocks.0.attn": (C14, C14),
        "blocks.0.mlp.act": (C14, C14),
    },
    ("swin_tiny_patch4_window7_224", (("depths", (2, 2, 2, 2)),)): {
        "patch_embed": (IMAGE, "NHWC 56×56"),
        "layers.0.blocks.1": ("NHWC 56×56", "NHWC 56×56"),
        "layers.0.blocks.1.attn": (UNKNOWN, UNKNOWN),
        "layers.0.blocks.1.attn.qkv": (UNKNOWN, UNKNOWN),
        "layers.0.blocks.1.attn.softmax": (UNKNOWN, UNKNOWN),
        "layers.0.blocks.1.mlp.act": ("NLC 56×56", "NLC 56×56"),
        "layers.1.downsample": ("NHWC 56×56", "NHWC 28×28"),
        "layers.1.downsample.norm": ("NHWC 28×28", "NHWC 28×28"),
        "layers.2.blocks.0.attn": (UNKNOWN, UNKNOWN),
        "layers.3.blocks.0.attn": ("NLC 7×7", "NLC 7×7"),  # one window is the whole map
        "layers.3.blocks.0.attn.softmax": (UNKNOWN, UNKNOWN),
        "norm": (L7, L7),
    },
    ("swinv2_cr_tiny_ns_224", (("depths", (1, 1, 1, 1)),)): {
        "stages.0.blocks.0.attn": (UNKNOWN, UNKNOWN),
    },
    ("swinv2_tiny_window8_256", (("depths", (1, 1, 1, 1)),)): {
        "layers.0.blocks.0.attn": (UNKNOWN, UNKNOWN),
        "layers.3.blocks.0.attn": ("NLC 8×8", "NLC 8×8"),
        # 64 × 64 attention weights look like a map of stride 4
        "layers.3.blocks.0.attn.softmax": (UNKNOWN, UNKNOWN),
    },
    ("cait_xxs24_224", (("depth", 2),)): {
        "blocks.0": (T14, T14),
        "blocks.0.attn.proj_l": (UNKNOWN, UNKNOWN),
        "blocks_token_only.0": (T14, "vector"),  # its class token is still a constant
        "blocks_token_only.1": (f"{T14}, vector", "vector"),
        "norm": (C14, C14),
    },
    ("convit_tiny", ()): {
        "blocks.0.attn": (T14, T14),
        "blocks.0.attn.attn_drop": (UNKNOWN, UNKNOWN),
        "blocks.11.attn": (C14, C14),
    },
    ("coat_tiny", ()): {
        "patch_embed1": (IMAGE, "NLC 56×56"),
        "serial_blocks1.0": ("NLC 1+56×56", "NLC 1+56×56"),
        "crpe1": (f"{UNKNOWN}, {UNKNOWN}", UNKNOWN),
        "cpe1.proj": (M56, M56),
        "serial_blocks4.0.mlp.act": ("NLC 1+7×7", "NLC 1+7×7"),
    },
    ("pit_ti_224", ()): {
        "patch_embed": (IMAGE, "NCHW 27×27 of 216×216 px"),  # overlapping patches, a stride of 8
        "transformers.0.blocks.0": ("NLC 1+27×27 of 216×216 px",) * 2,
        "transformers.1.pool.conv": ("NCHW 27×27 of 216×216 px", M14),
        "transformers.1.blocks.0": (C14, C14),
    },
    ("inception_v3", ()): {
        "Conv2d_1a_3x3": (IMAGE, "NCHW 149×149 of 298×298 px"),
        "Conv2d_2b_3x3.bn.act": ("NCHW 147×147 of 294×294 px",) * 2,
        "Pool1": ("NCHW 147×147 of 294×294 px", "NCHW 73×73 of 292×292 px"),
        "Mixed_5b": ("NCHW 35×35 of 280×280 px",) * 2,
        "Mixed_6a": ("NCHW 35×35 of 280×280 px", "NCHW 17×17 of 272×272 px"),
        "Mixed_7a": ("NCHW 17×17 of 272×272 px", "NCHW 8×8 of 256×256 px"),
        "global_pool": ("NCHW 8×8 of 256×256 px", "vector"),
    },
    ("maxvit_rmlp_pico_rw_256", ()): {
        "stem": ("NCHW 256×256", "NCHW 128×128"),
        "stages.0.blocks.0.attn_block": ("NHWC 64×64", "NHWC 64×64"),
        "stages.0.blocks.0.attn_block.attn": (UNKNOWN, UNKNOWN),
        "stages.0.blocks.0.attn_block.mlp.act": ("NHWC 64×64", "NHWC 64×64"),
    },
    ("poolformer_s12", ()): {
        "stages.0.blocks.0.token_mixer": (M56, M56),
        "stages.3.blocks.1.mlp.act": (M7, M7),
        "head.global_pool": (M7, "vector"),
    },
    ("caformer_s18", ()): {
        "stages.0.blocks.0.token_mixer": (M56, M56),
        "stages.3.blocks.0.token_mixer": ("NLC 7×7", "NLC 7×7"),
    },
    ("eva02_tiny_patch14_224", (("depth", 1),)): {
        "patch_embed": (IMAGE, "NLC 16×16"),
        "blocks.0": ("NLC 1+16×16", "NLC 1+16×16"),
        "blocks.0.attn.q_norm": (UNKNOWN, UNKNOWN),
    },
    ("focalnet_tiny_srf", ()): {
        "layers.0.blocks.0.modulation": (M56, M56),
        "layers.0.blocks.0.modulation.focal_layers.0": (M56, M56),
        "layers.3.blocks.0": (M7, M7),
    },
    ("hiera_tiny_224", ()): {
        "patch_embed": (IMAGE, "NLC 56×56"),
        "unroll": ("NLC 56×56", UNKNOWN),  # positions change their order here
        "blocks.0": (UNKNOWN, UNKNOWN),
        "blocks.11.mlp": (UNKNOWN, UNKNOWN),
        "head.fc": ("vector", "vector"),
    },
    ("mambaout_femto", ()): {
        "stages.0.blocks.0": ("NHWC 56×56", "NHWC 56×56"),
        "stages.0.blocks.0.conv": (M56, M56),
        "stages.3.blocks.0.act": (L7, L7),
    },
    ("fastvit_t8", ()): {
        "stem.0": (IMAGE, "NCHW 128×128"),
        "stages.0.blocks.0.token_mixer": ("NCHW 64×64", "NCHW 64×64"),
        "final_conv.se": ("NCHW 8×8", "NCHW 8×8"),
    },
}
HEAVY = {
    *("fastvit_t8", "coat_tiny", "maxvit_rmlp_pico_rw_256", "densenet121", "poolformer_s12"),
    *("caformer_s18", "focalnet_tiny_srf", "convit_tiny", "beit_base_patch16_224", "vgg11"),
    *("swinv2_cr_tiny_ns_224", "convnext_tiny", "swin_tiny_patch4_window7_224"),
}
CASES = [
    pytest.param(case, id=case[0], marks=[pytest.mark.slow] if case[0] in HEAVY else [])
    for case in EXPECTED
]
SIZES = {
    "swinv2_tiny_window8_256": 256,
    "inception_v3": 299,
    "maxvit_rmlp_pico_rw_256": 256,
    "fastvit_t8": 256,
}


def layouts_of(name, arguments=(), size=224):
    torch.manual_seed(0)
    model = measured_copy(timm.create_model(name, **dict(arguments)).eval())
    with forward_mode():
        plan = scout(model, torch.randn(1, 3, size, size))
    found = {}
    for call in plan.calls:
        text = [
            ", ".join(UNKNOWN if v is None else str(v) for v in layouts)
            for layouts in (call.in_layouts, call.out_layouts)
        ]
        found.setdefault(call.path, tuple(text))
    return found


@pytest.mark.parametrize("case", CASES)
def test_architecture(case):
    size = SIZES.get(case[0], 224)
    found = layouts_of(*case, size=size)
    expected = {
        path: tuple(v.replace(IMAGE, f"NCHW {size}×{size}") for v in pair)
        for path, pair in EXPECTED[case].items()
    }
    assert {path: found.get(path) for path in expected} == expected


def recognise(shape, enclosing=(), *, seen=(), size=(64, 64), **kwargs):
    recogniser = LayoutRecogniser(size)
    inside = [Layout("NCHW", size)]
    for s in seen:
        recogniser(torch.empty(s), [(inside[0], torch.Size())], is_map=True)
    near = [(v, torch.Size()) for v in enclosing or inside]
    return recogniser(torch.empty(shape), near, **kwargs)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 8, 16, 16), Layout("NCHW", (16, 16))),
        ((1, 16, 16, 8), Layout("NHWC", (16, 16))),
        ((1, 16, 16, 16), None),  # either order fits
        ((1, 8, 16, 32), None),  # no whole stride
        ((1, 8, 15, 15), None),
        ((4, 8, 16, 16), None),  # windows on the batch axis
        ((1, 8, 1, 1), Layout("vector")),
        ((1, 10), Layout("vector")),
        ((10,), None),
        ((1, 16, 24), None),  # tokens, queries, a matrix: no map of 4 × 4 was seen
        ((1, 24, 17), None),
        ((1, 16, 17), None),
        ((1, 4, 4, 8, 2), None),
    ],
)
def test_shapes(shape, expected):
    assert recognise(shape) == expected


def test_tokens_need_a_grid_that_was_seen():
    seen = [(1, 8, 4, 4)]
    assert recognise((1, 16, 24), seen=seen) == Layout("NLC", (4, 4))
    assert recognise((1, 64, 24), seen=seen) is None
    assert recognise((1, 64, 16), seen=seen) == Layout("NCL", (4, 4))


def test_attention_maps_are_no_maps():
    tokens = Layout("NLC", (4, 4))
    assert recognise((1, 3, 16, 16)) == Layout("NCHW", (16, 16))
    assert recognise((1, 3, 16, 16), [tokens], is_map=True) is None
    assert recognise((1, 3, 16, 16), [Layout("NCHW", (4, 4))], is_map=True) is None
    assert recognise((1, 1, 16), [tokens]) is None


def test_odd_sizes_and_oblong_images():
    rounded_up = Layout("NCHW", (17, 17), extent=(272, 272))  # a pixel for every 16
    assert recognise((1, 8, 17, 17), size=(260, 260), is_map=True) == rounded_up
    assert recognise((1, 8, 3, 4), size=(48, 64), is_map=True) == Layout("NCHW", (3, 4))
    assert recognise((1, 8, 4, 3), size=(48, 64), is_map=True) is None


def test_maps_without_padding_cover_a_part_of_the_image():
    conv, pool = nn.Conv2d(3, 24, 7, stride=4), nn.MaxPool2d(3, 2)
    kwargs = {"is_map": True, "returned": True}
    part = Layout("NCHW", (15, 15), extent=(60, 60))
    assert recognise((1, 24, 15, 15), module=conv, **kwargs) == part
    assert recognise((1, 24, 7, 7), [part], module=pool, **kwargs) == Layout(
        "NCHW", (7, 7), extent=(56, 56)
    )
    assert recognise((1, 24, 14, 14), module=conv, **kwargs) is None  # not what it makes of 64
    assert recognise((1, 24, 15, 15), module=conv, is_map=True) is None  # taken, not returned
    assert recognise((1, 24, 15, 15), is_map=True) is None
    recogniser = LayoutRecogniser((64, 64))
    recogniser(torch.empty(1, 24, 15, 15), [(recogniser.root, torch.Size())], module=conv, **kwargs)
    near = [(part, torch.Size())]
    assert recogniser(torch.empty(1, 15, 15, 24), near) == replace(part, kind="NHWC")
    assert recogniser(torch.empty(1, 225, 24), near) == replace(part, kind="NLC")
    assert recogniser(torch.empty(1, 24, 15, 15), [], is_map=True) == part


@pytest.mark.parametrize("size", [(299, 299), (63, 95)])
@pytest.mark.parametrize("kernels", [(3,), (3, 5), (3, 1, 7)])
def test_maps_are_where_strides_without_padding_put_them(size, kernels):
    """On a linear picture every affine generator commutes exactly with taking the centre taps."""
    layers = []
    for k in kernels:
        conv = nn.Conv2d(1, 1, k, stride=2 if k == 3 else 1, bias=False).double()
        nn.init.zeros_(conv.weight).data[..., k // 2, k // 2] = 1.0
        layers.append(conv)
    net = nn.Sequential(*layers).requires_grad_(False)
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in size)
    x = (0.3 * rows[:, None] - 0.7 * columns + 5.0)[None, None]
    action = ImageAction(resolve_generators("spatial"), *size, "central")
    y, jv, _ = pushforward(net, x, action.tangents(x))
    found = scout(net, x.requires_grad_(True)).calls[0].out_layouts
    layout = found[0]
    assert layout is not None
    assert layout.extent is not None
    inner = (..., slice(1, -1), slice(1, -1))  # at the border, differences are one-sided
    torch.testing.assert_close(jv[inner], layout.act(action, y)[inner], rtol=1e-12, atol=1e-9)
    whole = replace(layout, extent=None).act(action, y)
    assert (jv - whole)[inner].abs().max() > 1e-3


def test_flattened_maps_keep_their_layout():
    seen = [(1, 8, 4, 4)]
    flat = recognise((1, 128), seen=seen)
    assert flat == Layout("NCHW", (4, 4), flat=True)
    z = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(positions(z.flatten(1), flat), z[0].flatten(1).mT)


def test_reordered_positions_are_noticed():
    tokens = Layout("NLC", (4, 4))
    z = torch.randn(1, 16, 6)
    for y, reordered in (
        (z.clone(), False),
        (z.flip(2), False),
        (z + 1, False),
        (z.flip(1), True),
        (z.reshape(1, 2, 2, 4, 6).transpose(1, 2).reshape(1, 16, 6), True),
    ):
        recogniser = LayoutRecogniser((64, 64))
        recogniser.note_reordering(z, tokens, y, tokens)
        assert recogniser.reordered is reordered


class Awkward(nn.Module):
    """Something done to a map between layers, and layers that take what comes of it."""

    def __init__(self, function, channels=6):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.coarse = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.function = function
        self.act, self.conv = nn.GELU(), nn.LazyConv2d(6, 3, padding=1)

    def forward(self, x):
        z = self.stem(x)
        return self.conv(self.act(self.function(z, self.coarse(z)))).mean((2, 3))


CROPS = {
    "centre": lambda z, _: z[..., 16:48, 16:48],
    "corner": lambda z, _: z[..., :32, :32],
    "four times": lambda z, _: z[..., 24:40, 24:40],
    "narrow": lambda z, _: torch.cat([z[..., :16, :16], z[..., -16:, -16:]], 1),
    "tanh": lambda z, _: torch.tanh(z[..., 16:48, 16:48]) * 2,
    "turned": lambda z, _: z[..., ::2, ::2].flip(3),
}
STRIDES = {
    "slices": lambda z, _: z[..., ::2, ::2],
    "average": lambda z, _: nn.functional.avg_pool2d(z, 2),
    "maximum": lambda z, _: nn.functional.max_pool2d(z.tanh(), 3, 2, 1),
    "space to depth": lambda z, _: nn.functional.pixel_unshuffle(z, 2),
    "gated": lambda z, half: half.relu() * half.mean((2, 3), keepdim=True).sigmoid(),
    "there and back": lambda z, half: nn.functional.interpolate(half, scale_factor=2.0),
}


def layouts_within(model, size=64):
    torch.manual_seed(0)
    x = torch.randn(1, 3, size, size)
    model.eval()(x)
    with forward_mode():
        plan = scout(measured_copy(model), x)
    return {call.path: (call.in_layouts, call.out_layouts) for call in plan.calls}


@pytest.mark.parametrize("name", CROPS)
def test_a_crop_is_no_stride(name):
    found = layouts_within(Awkward(CROPS[name]))
    assert found["coarse"][1] == [Layout("NCHW", (32, 32))]  # that grid was seen, rightly
    assert found["act"] == found["conv"] == ([None], [None])


@pytest.mark.parametrize("name", STRIDES)
def test_a_stride_without_a_layer_is_one(name):
    found = layouts_within(Awkward(STRIDES[name]))
    side = 64 if name == "there and back" else 32
    assert found["act"] == found["conv"] == ([Layout("NCHW", (side, side))],) * 2


def test_a_crop_of_the_image():
    class Cropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(x[..., 8:40, 8:40]).mean((2, 3))

    assert layouts_within(Cropped())["conv"] == ([None], [None])


class Rows(nn.Module):
    """A patch embedding, then rows that are as many as its tokens and are none."""

    def __init__(self, function, width=24):
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 16, stride=16)
        self.queries = nn.Parameter(torch.randn(1, 16, 24))
        self.function = function
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(self.function(self.patch(x).flatten(2).mT, self.queries)).mean(1)


NO_TOKENS = {
    "queries": (lambda z, q: (q @ z.mT).softmax(-1) @ z, 24),
    "matrix": (lambda z, q: z[:, :, :16].mT @ z, 24),
    "squares": (lambda z, q: z @ z.mT, 16),
    "shuffled": (lambda z, q: z[:, torch.randperm(16, generator=torch.manual_seed(1))], 24),
}


@pytest.mark.parametrize("name", NO_TOKENS)
def test_rows_that_are_no_tokens(name):
    function, width = NO_TOKENS[name]
    assert layouts_within(Rows(function, width))["norm"][0] == [None]


def test_tokens_that_are():
    found = layouts_within(Rows(lambda z, q: z.tanh() + q))
    assert found["norm"] == ([Layout("NLC", (4, 4))],) * 2
    found = layouts_within(Rows(lambda z, q: z.mT * 2, 16))
    assert found["norm"][0] == [Layout("NCL", (4, 4))]  # channels first, of a map that was seen


class LinearPatches(nn.Module):
    """Patches cut by reshaping: no map of them is ever seen."""

    class Embed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3 * 16 * 16, 24)

        def forward(self, x):
            z = x.unflatten(3, (4, 16)).unflatten(2, (4, 16)).permute(0, 2, 4, 1, 3, 5)
            return self.linear(z.reshape(len(x), 16, -1))

    def __init__(self, declares):
        super().__init__()
        self.embed, self.norm = self.Embed(), nn.LayerNorm(24)
        if declares:
            setattr(self.embed, *declares)

    def forward(self, x):
        return self.norm(self.embed(x).tanh()).mean(1)


@pytest.mark.parametrize("declares", [("grid_size", (4, 4)), ("patch_size", 16), None])
def test_patches_without_a_map_are_declared_or_unknown(declares):
    tokens = Layout("NLC", (4, 4)) if declares else None
    found = layouts_within(LinearPatches(declares))
    assert found["embed"] == ([Layout("NCHW", (64, 64))], [tokens])
    assert found["norm"] == ([tokens], [tokens])


def test_a_matrix_of_a_network_without_maps_is_unknown():
    class Matrices(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(32)

        def forward(self, x):
            return self.norm(x.mean(1).unflatten(1, (16, 4)).mean(2).unflatten(2, (32, 2)).mean(3))

    assert layouts_within(Matrices())["norm"] == ([None], [None])
