"""A scan's folder with made-up numbers: real model names, awkward ones, failures, layers."""

from datetime import datetime, timedelta, timezone
from hashlib import sha256

import numpy as np
import pandas as pd

from liederiv.model_zoo.scan.columns import Origin, columns_of
from liederiv.model_zoo.scan.store import Store

NASTY = "my.models:<script>alert('x')</script>|[red]&\"quoted\""
MODELS = {
    "resnet18.a1_in1k": 11.7, "resnet18.tv_in1k": 11.7, "resnet50.a1_in1k": 25.6,
    "resnet50.tv_in1k": 25.6, "resnet50.ra_in1k": 25.6, "convnext_tiny.fb_in1k": 28.6,
    "convnext_small.fb_in1k": 50.2, "efficientnet_b0.ra_in1k": 5.3, "regnety_016.tv2_in1k": 11.2,
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": 5.7,
    "vit_small_patch16_224.augreg_in21k_ft_in1k": 22.0, "deit_tiny_patch16_224.fb_in1k": 5.7,
    "deit_small_patch16_224.fb_in1k": 22.0, "swin_tiny_patch4_window7_224.ms_in1k": 28.3,
    "mixer_b16_224.goog_in21k_ft_in1k": 59.9, "gmixer_24_224.ra3_in1k": 24.7,
    "resmlp_12_224.fb_in1k": 15.4, "coatnet_0_rw_224.sw_in1k": 27.4, "levit_128.fb_dist_in1k": 9.2,
    "mobilevit_s.cvnets_in1k": 5.6, NASTY: 0.1,
}  # fmt: skip
TRANSFORMS = {"translation": "px²", "rotation": "rad²", "scale": "(log-scale)²"}
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
KINDS = ("convolution", "downsampling", "activation", "normalisation", "pooling")


def lee_of(position, transform, factor=1.0):
    """Made up: spread over decades, in another order for each transform."""
    return factor * 10.0 ** (-6 + (position * (2 + len(transform)) % 21) / 7)


def origin(model, measurement="score", outcome="measured", **more):
    arch, _, tag = model.partition(".") if ":" not in model else (model, "", "")
    facts = {
        "key": sha256(f"{model} {measurement} {outcome}".encode()).hexdigest()[:16],
        "measurement": measurement,
        "outcome": outcome,
        "requested_model": model,
        "model": model,
        "architecture": arch,
        "tag": tag,
        "family": arch.partition("_")[0],
        "weights": "made up",
        "images": "samples",
        "images_fingerprint": "0" * 16,
        "num_images": 8,
        "input_channels": 3,
        "input_height": 224,
        "input_width": 224,
        "scheme": "bspline",
        "dtype": "float32",
        "device": "cpu",
        "seed": 0,
        "version_liederiv": "0",
        "seconds": 1.5,
        "finished": START,
    }
    return Origin(**(facts | more))


def score_frame(position, factor=1.0, images=8):
    rng = np.random.default_rng(position)
    rows = []
    for metric, squared in (("lee", True), ("eq_t", False)):
        for output in ("probs", "logits"):
            for transform, unit in TRANSFORMS.items():
                mean = lee_of(position, transform, factor) * (1 if output == "probs" else 1e4)
                values = mean * rng.uniform(0.5, 1.5, images)
                values *= mean / values.mean()
                rows.append(
                    {
                        "status": "measured",
                        "metric": metric,
                        "transform": transform,
                        "output": output,
                        "value": mean if squared else np.sqrt(mean),
                        "ci_low": 0.8 * mean,
                        "ci_high": 1.3 * mean,
                        "unit": f"{output[:-1]}²/{unit}",
                        "per_image": list(values if squared else np.sqrt(values)),
                        "image_names": [f"cat/{i}" if i < 4 else f"dog/{i}" for i in range(images)],
                    }
                )
    return pd.DataFrame(rows, columns=columns_of("score"))


def layer_frame(position):
    rng = np.random.default_rng(100 + position)
    rows = []
    for transform in TRANSFORMS:
        shares = rng.normal(0.2, 0.15, len(KINDS))
        shares *= 1 / shares.sum()
        for i, kind in enumerate(KINDS):
            rows.append(
                {
                    "status": "measured",
                    "module": f"stage{i}.{kind}",
                    "class": kind.title(),
                    "kind": kind,
                    "call": 0,
                    "generator": transform,
                    "output": "probs",
                    "total": lee_of(position, transform) * 1000,
                    "share": shares[i],
                    "depth": 2,
                    "stage": f"stage{i}",
                }
            )
    return pd.DataFrame(rows, columns=columns_of("layers"))


def make_scan(folder, factor=1.0, models=MODELS, layers=True):
    """Fill `folder`; LEE is `factor` times what `lee_of` says."""
    store = Store.create(folder, {"score": {"scheme": "bspline", "images": "samples"}})
    for i, (model, millions) in enumerate(models.items()):
        more = {"parameters": int(millions * 1e6), "finished": START + timedelta(minutes=i)}
        store.write(origin(model, **more), score_frame(i, factor))
        if layers and i < 6:
            store.write(origin(model, "layers", **more), layer_frame(i))
    store.write(origin("bad_model", outcome="failed", reason="ValueError: <b>boom</b> | [red]no"))
    store.write(origin("huge_model", outcome="out of memory", reason="needs more than there is"))
    return store
