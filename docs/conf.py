"How the site is built: notebooks with their committed outputs, documents, the reference from the docstrings. Offline."
import inspect
import json
import re
from configparser import ConfigParser
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[1]  # also Sphinx's source directory: all stays where it is
_settings = ConfigParser(delimiters=["="])
_settings.read(ROOT / "settings.ini", encoding="utf-8")

project, author = "sslnb", _settings["DEFAULT"]["author"]
version = release = _settings["DEFAULT"]["version"]
copyright = _settings["DEFAULT"]["copyright"]
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]
root_doc = "docs/index"
include_patterns = ["docs/**", "nbs/**", "*.md", "data/README.md", "tests/benchmarks/README.md"]
exclude_patterns = [".*", "**/.*", "_*", "data/*/*", "reports", "sslnb", "docs/_*", "README.md"]  # on the front page

nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True, "no-value": True}
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False  # those of torch.nn.Module say nothing here
smartquotes = False  # primes of shapes and quotes of code stay what they are
autodoc_preserve_defaults = True

highlight_language = "none"  # of blocks that name no language; notebooks do
html_theme = "furo"
html_title = f"sslnb {version}"
html_copy_source = False
html_show_sphinx = False
html_extra_path = ["front"]  # index.html leads to docs/index.html


API_PAGE = """{module}
{line}

Derived, shown and tested in the notebook :doc:`{notebook}`.

.. automodule:: {module}
"""


def write_reference(app):
    "A page for every module, in docs/api/ (which git ignores)."
    pages = {}
    for path in (ROOT / "sslnb").rglob("[!_]*.py"):
        source = re.search(r"File to edit: [./]*(.*)\.ipynb", path.read_text("utf-8"))[1]
        inside = ".".join(path.relative_to(ROOT / "sslnb").with_suffix("").parts)
        module = f"sslnb.{inside}"
        pages[f"{inside}.rst"] = API_PAGE.format(module=module, line="=" * len(module), notebook=f"/{source}")
    folder = ROOT / "docs" / "api"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.name not in pages: old.unlink()
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text("utf-8") != text: page.write_text(text, "utf-8")


def fill_front_page(app, docname, source):
    "The README, its links seen from docs/, and the notebooks that are there."
    if docname != root_doc: return
    app.env.note_dependency(ROOT / "README.md")
    readme = re.sub(r"^\[!\[.*\n", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M)  # no badges
    readme = re.sub(r"\]\((?!https?:|#)", "](../", readme)
    pages = {name: "\n".join(f"/{p.relative_to(ROOT).with_suffix('')}" for p in sorted(ROOT.glob(pattern)))
             for name, pattern in (("study", "nbs/[0-9]*.ipynb"), ("tour", "nbs/index.ipynb"),
                                   ("solutions", "nbs/solutions/*.ipynb"), ("library", "nbs/lib/*.ipynb"),
                                   ("tools", "nbs/tools/*.ipynb"), ("course", "nbs/course/*.ipynb"))}
    source[0] = Template(source[0]).substitute(pages, readme=readme)


def show_notebook(app, docname, source):
    "A notebook as its reader wants it: without nbdev's directives, and without cells that hold nothing else."
    if not docname.startswith("nbs/"): return
    nb = json.loads(source[0])
    for cell in nb["cells"]:
        lines = "".join(cell["source"]).splitlines(keepends=True)
        if cell["cell_type"] == "code" and any(line.split() == ["#|", "hide"] for line in lines): lines = []
        cell["source"] = [line for line in lines if not line.startswith("#|")]
    nb["cells"] = [cell for cell in nb["cells"] if cell["source"]]
    source[0] = json.dumps(nb)


def show_signature(app, what, name, obj, options, signature, returns):
    "Types without the limits that pydantic checks: int for Annotated[int, Field(gt=0)]."
    return re.sub(r"~?(?:typing\.)?Annotated\[(\w+), FieldInfo\(.*?\]\)\]", r"\1", signature or "") or None, returns


def skip_fields(app, what, name, obj, skip, options):
    "The fields of a class are in its signature; what is left to list are its functions."
    return True if what == "class" and not (inspect.isroutine(obj) or isinstance(obj, property)) else None


def show_docstring(app, what, name, obj, options, lines):
    "Docstrings are plain text in which `…` is code: so it becomes, and no other character is markup."
    parts = re.split(r"`([^`]+)`", "\n".join(lines))
    parts[::2] = [re.sub(r"([\\*_|`])", r"\\\1", text) for text in parts[::2]]
    parts[1::2] = [rf"\ ``{code}``\ " for code in parts[1::2]]
    lines[:] = "".join(parts).splitlines()


def setup(app):
    app.connect("builder-inited", write_reference)
    app.connect("source-read", fill_front_page)
    app.connect("source-read", show_notebook)
    app.connect("autodoc-process-signature", show_signature)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", show_docstring)
