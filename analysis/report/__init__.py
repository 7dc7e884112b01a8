"""One self-contained page about a scan: `liederiv report`.

The page opens from disk and loads nothing: plotly draws, DataTables (through itables) sorts and
filters. Needs the `report` extra.
"""

from .page import report_html

__all__ = ["report_html"]
