"The site: builds without a warning, has a page for everything, fetches nothing from elsewhere."
import ast
import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("sphinx", "myst_nb", "furo", "sphinx-mathjax-offline")
missing = [name for name in NEEDED if not importlib.util.find_spec(name)]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    bool(missing), reason=f"the site needs {', '.join(missing)}: uv pip install -e '.[docs]'")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", ".", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and not done.stderr, done.stderr[-5000:]
    return out


class Fetched(HTMLParser):
    "What a browser loads of a page without being asked (links that one may click are none of it)."
    def __init__(self, text):
        super().__init__()
        self.urls = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""",
                               "".join(re.findall(r"<style.*?</style>", text, re.S)))
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "link" and attrs.get("rel") not in ("next", "prev", "search", "index", "canonical"):
            self.urls.append(attrs["href"])
        if tag not in ("a", "link"): self.urls += [attrs[k] for k in ("src", "data", "poster") if attrs.get(k)]


def elsewhere(url):
    return re.match(r"(https?:)?//", url)


def pages(site):
    return sorted(p for p in site.rglob("*.html") if "_static" not in p.parts)


def test_every_notebook_module_and_document_has_its_page(site):
    notebooks = [p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    for p in notebooks:
        assert (site / p.relative_to(ROOT).with_suffix(".html")).exists(), p
    for name in ("index", "docs/index", "data/README", "DATA", "docs/scaling", "CONTRIBUTING", "CHANGELOG"):
        assert (site / f"{name}.html").exists(), name
    assert "docs/index.html" in (site / "index.html").read_text("utf-8")
    front = (site / "docs" / "index.html").read_text("utf-8")
    for p in notebooks: assert f'href="../{p.relative_to(ROOT).with_suffix(".html")}"' in front, p


@pytest.mark.parametrize("path", sorted((ROOT / "sslnb").rglob("[!_]*.py")), ids=lambda p: p.stem)
def test_reference_has_every_public_definition(path, site):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__")
    defined = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.decorator_list}
    module = ".".join(path.relative_to(ROOT / "sslnb").with_suffix("").parts)
    page = (site / "docs" / "api" / f"{module}.html").read_text("utf-8")
    for name in defined & set(ast.literal_eval(names)): assert f'id="sslnb.{module}.{name}"' in page, name


def test_docstrings_are_plain_text_with_code_in_backticks(site):
    page = (site / "docs" / "api" / "losses.html").read_text("utf-8")
    assert '<span class="pre">SettingError</span></code>: other' in page and "system-message" not in page
    for p in pages(site): assert "problematic" not in p.read_text("utf-8"), p
    for p in (site / "docs" / "api").glob("*.html"):  # no leftovers of pydantic, named tuples, torch and the memory
        assert not re.search("FieldInfo|Alias for field|Define the computation|object at 0x", p.read_text("utf-8")), p


def test_notebooks_show_outputs_and_mathematics_without_directives(site):
    page = (site / "nbs" / "lib" / "08_losses.html").read_text("utf-8")
    assert 'class="math notranslate nohighlight"' in page and "tex-chtml.js" in page and r"\mathcal L" in page
    assert (site / "_static" / "mathjax" / "tex-chtml.js").exists()
    assert list((site / "_static" / "mathjax").rglob("*.woff"))
    assert re.search(r'<img[^>]*src="\.\./\.\./_images/', page) and "Eq. 2 of 64 random pairs" in page
    for p in (site / "nbs").rglob("*.html"):
        assert not re.search(r'<span class="c1">#\|', p.read_text("utf-8")), p


def test_nothing_is_fetched_from_elsewhere(site):
    found = {(p.name, url) for p in pages(site) for url in Fetched(p.read_text("utf-8")).urls if elsewhere(url)}
    assert len(pages(site)) > 40 and not found
    for p in (site / "_static").glob("**/*.css"):
        urls = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", p.read_text("utf-8"))
        assert not [u for u in urls if elsewhere(u)], p


def test_links_within_the_site_lead_somewhere(site):
    for p in pages(site):
        for target in re.findall(r'<a [^>]*href="([^"#?:]+)(?:#[^"]*)?"', p.read_text("utf-8")):
            assert (p.parent / target).exists(), (p.name, target)
