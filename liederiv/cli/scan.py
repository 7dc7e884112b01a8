"""`liederiv scan`: many models, unattended."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from liederiv.cli import options as o
from liederiv.cli.command import Leave
from liederiv.cli.groups import grouped
from liederiv.errors import LieDerivError
from liederiv.model_zoo.scan.settings import ScanSettings
from liederiv.names import PRESETS

__all__ = ["scan"]

_RUN = "Running"
_WEIGHTS = "Weights"


@grouped()
def scan(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATTERNS]…",
            help="Names as for `liederiv score`, or quoted wildcards: 'resnet*' (architectures, "
            "default tag), 'resnet*.*' (every tag).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the results; a scan resumes there.")
    ] = Path("scan"),
    measure: Annotated[
        str,
        typer.Option(help="Comma-separated: score, layers (attribution), aliasing."),
    ] = "score",
    preset: Annotated[
        list[str] | None,
        typer.Option(
            help="; ".join(f"{k}: {v}" for k, v in PRESETS.items()), rich_help_panel=o.MODELS
        ),
    ] = None,
    models_file: Annotated[
        Path | None,
        typer.Option(
            help="One name or wildcard per line, # for comments.", rich_help_panel=o.MODELS
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Wildcard of names to leave out; repeatable.", rich_help_panel=o.MODELS),
    ] = None,
    max_params: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Leave out larger models, e.g. 100M.", rich_help_panel=o.MODELS
        ),
    ] = None,
    shard_: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Only the i-th of n parts, e.g. 2/8; default: Slurm's array task.",
            rich_help_panel=o.MODELS,
        ),
    ] = None,
    settings: ScanSettings = ScanSettings(device="auto"),
    engine: Annotated[
        str,
        typer.Option(
            metavar="local|ray", help="Processes here, or a Ray cluster.", rich_help_panel=_RUN
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Models at once; default: one per GPU slot, one without GPUs, as many as a "
            "cluster holds.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads of each worker; default: all cores divided between them.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    gpus_per_task: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of a GPU for each worker, e.g. 0.5; default: 1 on CUDA.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Host memory each worker may allocate, e.g. 16GB; Ray also reserves it.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of an existing Ray cluster, or auto.", rich_help_panel=_RUN),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Give a measurement up after so long, loading included; inf: never.",
            rich_help_panel=_RUN,
        ),
    ] = 6 * 3600,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failures again.", rich_help_panel=_RUN)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be measured.", rich_help_panel=_RUN),
    ] = False,
    prefetch: Annotated[
        bool,
        typer.Option(
            "--prefetch",
            help="Only download the weights of all these models; the scan then needs no hub.",
            rich_help_panel=_WEIGHTS,
        ),
    ] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Download nothing: weights come from disk.", rich_help_panel=_WEIGHTS
        ),
    ] = False,
    cache_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Disk space for downloaded weights, e.g. 50GB; those used longest ago make room. "
            "What else is in the hub's cache stays.",
            rich_help_panel=_WEIGHTS,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Plain lines, no bar.")] = False,
) -> None:
    """Measure many models, each in a process of its own.

    Whatever a model does (raise, crash, hang, eat the memory), the scan goes on: it becomes a row
    with its reason and a log. Run the same command again to resume; what is measured is skipped.
    Ctrl-C ends after the models in flight, a second one at once.

    Examples:  liederiv scan 'resnet*' 'vit_*' --max-params 100M --out my_scan

    liederiv scan --preset paper-e2e --measure score,layers --gpus-per-task 0.5

    liederiv scan --preset families --no-pretrained --calibrate --dry-run

    liederiv scan --preset imagenet1k --prefetch
    """
    from liederiv.cli.prefetching import fetch_all
    from liederiv.cli.scan_report import announce, conclude, show
    from liederiv.model_zoo.scan import (
        Reporter,
        Scan,
        WeightsPolicy,
        choose_engine,
        make_plan,
        parse_count,
        select_models,
        shard,
        stop_on_signals,
    )
    from liederiv.model_zoo.scan.store import Store
    from liederiv.model_zoo.weights.cache import parse_size

    # A cluster's nodes may have GPUs where this machine has none.
    trusted = engine == "ray" and settings.device != "auto"
    place = settings.device if trusted else str(settings.model_options().torch_device)
    settings = replace(settings, measurements=tuple(measure.split(",")), device=place)
    settings.check()
    selection = select_models(
        patterns or (),
        models_file=models_file,
        presets=preset or (),
        exclude=exclude or (),
        max_params=None if max_params is None else parse_count(max_params, "--max-params"),
        pretrained=settings.pretrained,
    )
    candidates = shard(selection.candidates, shard_)
    limit = None if cache_limit is None else parse_size(cache_limit)
    weights = WeightsPolicy(offline, limit)
    if prefetch:
        if offline or not settings.pretrained:
            other = "--offline" if offline else "--no-pretrained"
            raise LieDerivError(f"--prefetch downloads published weights; leave {other} out.")
        fetch_all([c.name for c in candidates], weights, plain=quiet)
        return
    settings = settings.with_images()
    size = None if memory is None else parse_size(memory, "--memory")
    if dry_run:
        known = Store.open(out) if (out / "manifest.json").exists() else None
        show(make_plan(candidates, settings, known, retry_failed=retry_failed), selection)
        return
    limits, runner = choose_engine(
        engine,
        settings.device,
        workers=workers,
        threads=threads,
        gpus_per_task=gpus_per_task,
        address=address,
        timeout=timeout,
        memory=size,
    )
    with closing(runner):  # all that can be refused has been, before the folder is bound to it
        store = Store.create(out, settings.configuration())
        jobs = make_plan(candidates, settings, store, retry_failed=retry_failed)
        reporter = Reporter(plain=quiet)
        announce(jobs, selection, reporter)
        with stop_on_signals() as stop:
            summary = Scan(jobs, settings, store, runner, limits, reporter, stop, weights).run()
    conclude(summary, out)
    if stop.asked:
        raise Leave(stop.exit_code)
