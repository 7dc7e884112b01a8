"""Check every relative link and anchor of the guides and notebooks, without a network.

    python docs/links.py    # exit code 1 and one line per broken link

Pages are the ``*.md`` of the repository's root and of docs/, and the notebooks. What a link names
must exist, with a heading for its anchor (spelt as GitHub and `make docs` spell it), and every page
must be reachable from docs/index.md. Pages that the code names in its messages must exist, too.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(
    r"\]\(\s*<?([^)>\s]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)|\b(?:src|href)=\"([^\"]+)\"", re.M
)
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$", re.MULTILINE)
NAMED = re.compile(r"\b((?:docs|notebooks)/[\w-]+\.(?:md|ipynb))(?:#([\w-]+))?")
OUTSIDE = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def pages(root: Path) -> list[Path]:
    """The guides and notebooks."""
    return sorted([*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("notebooks/*.ipynb")])


def text_of(path: Path) -> str:
    """A page's Markdown; of a notebook, that of its text cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return FENCE.sub("", text)


def links(text: str) -> Iterator[str]:
    """Targets of links and images that stay within the repository."""
    for groups in LINK.findall(CODE.sub("", text)):
        target = next(filter(None, groups))
        if not OUTSIDE.match(target):
            yield target


def anchors(text: str) -> set[str]:
    """Anchors of the headings; repeated headings are numbered."""
    found: set[str] = set()
    for heading in HEADING.findall(text):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        same = (f"{slug}-{i}" for i in range(1, len(found) + 1))
        found.add(next(s for s in (slug, *same) if s not in found))
    return found


def fault(root: Path, path: Path, target: str) -> str | None:
    """What is wrong with one link of a page; None if nothing is."""
    name, _, anchor = target.partition("#")
    file = (path.parent / name).resolve() if name else path
    if not file.is_relative_to(root):
        return "leaves the repository"
    if not file.exists():
        return "does not exist"
    if anchor and (file.suffix not in (".md", ".ipynb") or anchor not in anchors(text_of(file))):
        return f"has no heading for #{anchor}"
    return None


def unreachable(root: Path) -> set[Path]:
    """Pages that no chain of links from docs/index.md leads to."""
    known = set(pages(root))
    waiting, seen = [root / "docs" / "index.md"], set()
    while waiting:
        path = waiting.pop()
        if path in known - seen:
            seen.add(path)
            targets = (t.partition("#")[0] for t in links(text_of(path)))
            waiting += [(path.parent / t).resolve() for t in targets if t]
    return known - seen


def named_in_code(root: Path) -> Iterator[tuple[Path, str]]:
    """(source file, target) of every page that docstrings and messages name."""
    for folder in ("liederiv", "model_zoo", "analysis", "benchmarks"):
        for path in sorted(root.glob(f"{folder}/**/*.py")):
            for name, anchor in NAMED.findall(path.read_text(encoding="utf-8")):
                yield path, f"{name}#{anchor}" if anchor else name


def check(root: Path) -> list[str]:
    """One line per fault."""
    root = root.resolve()
    faults = []
    for path in pages(root):
        found = ((t, fault(root, path, t)) for t in links(text_of(path)))
        faults += [f"{path.relative_to(root)}: {t} {what}" for t, what in found if what]
    for path, target in named_in_code(root):
        what = fault(root, root / "README.md", target)
        faults += [f"{path.relative_to(root)}: {target} {what}"] if what else []
    lost = sorted(unreachable(root))
    return faults + [f"{p.relative_to(root)}: is not reachable from docs/index.md" for p in lost]


if __name__ == "__main__":
    broken = check(Path(__file__).parents[1])
    print("\n".join(broken) or "Every link leads somewhere.")
    sys.exit(bool(broken))
