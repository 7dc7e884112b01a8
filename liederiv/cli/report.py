"""`liederiv report`: a scan as one page to open in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liederiv.cli import options as o
from liederiv.cli.arguments import as_given
from liederiv.cli.saving import Saving, writable
from liederiv.cli.terminal import say
from liederiv.files import write_atomically

__all__ = ["report"]


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of `liederiv scan`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .html.")],
    accuracy: o.Accuracy = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Equivariance of models",
    metric: Annotated[str, typer.Option(help="Which metric the leaderboard lists.")] = "lee",
    output: o.MeasuredOutput = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    quiet: o.Quiet = False,
) -> None:
    """Turn a scan into one page: leaderboard, relations, layers, failures, methods.

    The page opens from disk in any browser and loads nothing from elsewhere (about 6 MB). Needs
    `pip install 'liederiv[report]'`.

    Example:  liederiv report zoo -o zoo.html --accuracy results-imagenet.csv
    """
    writable(out)
    o.check_endings({"--out": (out, ".html")})
    from liederiv.analysis.models.accuracy import read_accuracy
    from liederiv.analysis.report import report_html
    from liederiv.model_zoo.scan.store import Store

    store = Store.open(folder)
    page = report_html(
        store.read("score"),
        store.read("layers"),
        accuracy=None if accuracy is None else read_accuracy(accuracy),
        configuration=store.configuration,
        title=title,
        metric=metric,
        output=output,
        seed=seed,
    )
    save = Saving()
    save(out, lambda path: write_atomically(path, lambda p: p.write_text(page, encoding="utf-8")))
    save.finish()
    if not quiet:
        say(f"{as_given(out)}: {len(page.encode()) / 1e6:.1f} MB; open it in a browser.")
