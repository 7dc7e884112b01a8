"""What MkDocs cannot do by itself: guests from outside docs/, the reference, links in code font.

* README, CONTRIBUTING, CHANGELOG and the notebooks are pages too, without being copied.
* Every package, and every module of `MODULES`, has a page of the reference with what ``__all__``
  lists. What several list has its entry on the page of the outermost, and a link elsewhere.
* A name in single backticks becomes a link where it names an entry of the reference.
"""

import ast
import configparser
import json
import posixpath
import re
from functools import cache
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "build" / "docs"
"""Where `make docs` installs the distribution, so that the wings are below ``liederiv``."""

MODULES = ("liederiv.testing", "liederiv.model_zoo.scan.store", "liederiv.analysis.plots.figures")
"""Modules that users import from although no package exports what they hold."""

GUESTS = {"README.md": "overview.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
GUESTS |= {"CHANGELOG.md": "CHANGELOG.md"}
GUESTS |= {
    p.relative_to(ROOT).as_posix(): f"notebooks/{p.stem}.md"
    for p in sorted(ROOT.glob("notebooks/*.ipynb"))
}
"""Files of the repository that are pages, and the names of these pages."""

LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
CODE = re.compile(r"(?<!<pre>)<code>([\w.]+)(?:\([^<]*\))?</code>(?!</a>|</autoref>)")
FORMULA = re.compile(r"\$([^$\n]+)\$")


def source_of(module: str) -> Path:
    """The file of a module below `BUILT`."""
    path = BUILT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def exports_of(module: str) -> list[str]:
    """What a module's ``__all__`` lists, dunders left out; that of its exports, if it has some."""
    if starred(module):
        return exports_of(starred(module))
    for node in ast.parse(source_of(module).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [n for n in ast.literal_eval(node.value) if not n.startswith("__")]
    return []


def starred(module: str) -> str:
    """The module of which a package takes all public names (`liederiv.late`); empty if none."""
    for node in ast.walk(ast.parse(source_of(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            return f"{module}.{node.module}" if node.level else str(node.module)
    return ""


def home_of(module: str, name: str) -> str:
    """The dotted name of what a module exports, where it is defined."""
    if starred(module):
        return home_of(starred(module), name)
    package = module if source_of(module).stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source_of(module).read_text())):
        if isinstance(node, ast.ImportFrom) and name in {a.asname or a.name for a in node.names}:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*above, node.module or ""]).strip(".") if node.level else node.module
            original = next(a.name for a in node.names if name == (a.asname or a.name))
            return home_of(str(source), original)
    return f"{module}.{name}"


def reference_modules() -> list[str]:
    """Packages and `MODULES` that export something, sorted; the command line has its --help."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    names = sorted({*config["options"]["packages"].split(), *MODULES} - {"liederiv.cli"})
    return [name for name in names if exports_of(name)]


def reference_page(module: str, shown: dict[str, str]) -> str:
    """Markdown of one page; `shown` maps objects that have an entry to the page of that entry."""
    lines = [
        f"# {module}",
        "",
        ast.get_docstring(ast.parse(source_of(module).read_text())) or "",
    ]
    elsewhere = []
    for name in exports_of(module):
        home = home_of(module, name)
        if shown.setdefault(home, module) == module:
            lines += ["", f"::: {home}"]
        else:
            elsewhere.append(f"[`{name}`][{home}]")
    if elsewhere:
        lines += ["", "## Also exported here", "", ", ".join(elsewhere)]
    return "\n".join(lines)


def notebook_markdown(text: str) -> str:
    """A notebook with its outputs as Markdown; figures and formulas are part of the page."""
    blocks = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(FORMULA.sub(lambda m: convert(m[1]), source))
        else:
            blocks.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = {k: "".join(v) for k, v in output.get("data", {}).items()}
            if "image/png" in data:
                png = data["image/png"].replace("\n", "")
                blocks.append(f'<img alt="Figure" src="data:image/png;base64,{png}">')
            elif "text/html" in data:
                blocks.append(
                    re.sub(r"<style.*?</style>|\n\s*\n", "", data["text/html"], flags=re.S)
                )
            else:
                plain = data.get("text/plain") or "".join(output.get("text", ()))
                blocks.append(f"```text\n{plain.rstrip()}\n```")
    return "\n\n".join(blocks)


def moved_links(markdown: str, home: str, here: str) -> str:
    """Links of the file `home`, relative to the repository, as links of the page `here`."""

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(home), match[1]))
        page = GUESTS.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(page, posixpath.dirname(here) or ".")

    return LINK.sub(moved, markdown)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the reference behind the guides."""
    pages = [{name: f"reference/{name}.md"} for name in reference_modules()]
    assert config.nav is not None
    config.nav.insert(-2, {"API reference": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of docs/."""
    for source, page in GUESTS.items():
        text = (ROOT / source).read_text()
        text = notebook_markdown(text) if source.endswith(".ipynb") else text
        files.append(File.generated(config, page, content=moved_links(text, source, page)))
    shown: dict[str, str] = {}
    pages = {m: reference_page(m, shown) for m in sorted(reference_modules(), key=_by_depth)}
    for module, text in pages.items():
        files.append(File.generated(config, f"reference/{module}.md", content=text))
    return files


def _by_depth(module: str) -> tuple[int, str]:
    return (module.count("."), module)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave docs/ lead to the guests' pages."""
    inside = page.file.generated_by is None
    return (
        moved_links(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)
        if inside
        else markdown
    )


@cache
def public_names() -> dict[str, str]:
    """Every exported name, with and without its module in front, and where it is defined."""
    names = {}
    for module in sorted(reference_modules(), key=_by_depth, reverse=True):
        for name in exports_of(module):
            names[name] = names[f"{module}.{name}"] = home_of(module, name)
    return names


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Names in code font become references, which autorefs resolves or leaves as they are."""
    names, modules = public_names(), reference_modules()

    def linked(match: re.Match[str]) -> str:
        name = match[1]
        if name in modules and name != "liederiv":
            folder = posixpath.dirname(page.url) or "."
            return f'<a href="{posixpath.relpath(f"reference/{name}.html", folder)}">{match[0]}</a>'
        known = max(
            (n for n in names if name == n or name.startswith(f"{n}.")), key=len, default=""
        )
        if known == name or known.rpartition(".")[2][:1].isupper():
            target = names[known] + name[len(known) :]
        elif name.startswith("liederiv."):
            target = name
        else:
            return match[0]
        word = known == name and name.islower() and "_" not in name  # `scale` is a word, too
        if word and not page.url.startswith("reference/"):
            return match[0]
        return f'<autoref optional identifier="{target}">{match[0]}</autoref>'

    return CODE.sub(linked, html)
