"Study notebooks as a reader runs them: opened in a real JupyterLab, in a real browser, Run All."
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
IN_LAB = ("04_attacks",)  # it has a slider; tests/test_notebooks.py runs the others, without a browser
READY = """() => {
    const session = jupyterapp.shell.currentWidget?.sessionContext?.session
    return session?.kernel?.connectionStatus === 'connected' && session.kernel.status === 'idle'
}"""
EXPLORER = """from sslnb.explorer import explore
explore({"raw pixels": evaluate.raw_pixels}, test[:24])"""
STATES = """() => [...jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code').map(
    c => c.executionState === 'running' ? 'running' : c.executionCount ? 'done' : 'idle')"""


def smoke_copy(name, place):
    """The notebook in the folder of the server: at scale smoke, without the outputs that it was committed with, with an
    explorer at the end."""
    nb = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", as_version=4)
    for cell in (c for c in nb.cells if c.cell_type == "code"):
        cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            for usual, value in (("scale", "smoke"), ("dataset", "shapes")):
                assert f"{usual}: str = None" in cell.source
                cell.source = cell.source.replace(f"{usual}: str = None", f'{usual}: str = "{value}"')
    nb.cells.append(new_code_cell(EXPLORER))
    place.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, place / f"{name}.ipynb")
    return place / f"{name}.ipynb"


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    "JupyterLab, with folders of its own for all that it writes: (its folder, its address, its token)."
    home = tmp_path_factory.mktemp("lab")
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}', "utf-8")
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
           "IPYTHONDIR": "ipython", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
           "SSLNB_STORE": "runs", "SSLNB_REPORTS": "reports"}
    token = secrets.token_hex()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
               "--port=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home}"]
    with (home / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=home,
                                  env=os.environ | {k: str(home / v) for k, v in own.items()})
    try:
        yield home, address(server, home), token
    finally:
        server.terminate()  # and its kernels with it
        try: server.wait(30)
        except subprocess.TimeoutExpired: server.kill()


def address(server, home):
    "Where the server answers, once it does."
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        for info in (home / "runtime").glob("jpserver-*.json"):
            try:
                url = json.loads(info.read_text("utf-8"))["url"]
                urllib.request.urlopen(url + "api", timeout=5).close()
                return url
            except (ValueError, OSError): pass  # half written; not listening yet
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab does not start:\n{(home / 'log').read_text('utf-8')}")


@pytest.fixture
def open_notebook(chromium, lab):
    "open_notebook(name): its page in JupyterLab, when its kernel can be talked to."
    home, url, token = lab
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})

    def open_notebook(name):
        smoke_copy(name, home / "nbs")
        page = context.new_page()
        page.goto(f"{url}lab/tree/nbs/{name}.ipynb?reset&token={token}", timeout=120_000)
        page.locator(".jp-Notebook").wait_for(timeout=120_000)
        page.wait_for_function(READY, timeout=120_000, polling=200)  # Run All before that would be dropped
        return page
    yield open_notebook
    context.close()


def run_all(page, seconds=300):
    "Run > Run All Cells, as a reader does; until no cell is waiting."
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(f"() => ({STATES})().some(s => s !== 'idle')", timeout=20_000, polling=200)
    page.wait_for_function(f"() => ({STATES})().every(s => s !== 'running')", timeout=1000 * seconds, polling=200)


@pytest.mark.parametrize("name", IN_LAB)
def test_run_all_in_jupyterlab(name, open_notebook, lab):
    home, path = lab[0], lab[0] / "nbs" / f"{name}.ipynb"
    page = open_notebook(name)
    run_all(page)
    page.keyboard.press("Control+s")
    page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty", timeout=20_000)

    nb = nbformat.read(path, as_version=4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    outputs = [o for c in code for o in c.outputs]
    wrong = [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert not wrong, wrong
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))

    drawn = sum("image/png" in o.get("data", {}) for o in outputs)
    images = page.locator(".jp-OutputArea-output img")
    assert 0 < drawn <= images.count()
    for image in images.all():
        image.scroll_into_view_if_needed()
        page.wait_for_function("i => i.complete && i.naturalWidth > 0 && i.checkVisibility()",
                               arg=image.element_handle())
    assert page.locator(".jp-mod-error, [data-mime-type$='error'], [data-mime-type$='stderr']").count() == 0
    if any("ipywidgets.interact" in c.source for c in code): assert page.locator(".widget-slider").count()
    assert list((home / "reports" / "records").glob("*.csv"))

    frame = page.frame_locator(".jp-OutputArea-output iframe[srcdoc]")
    frame.locator("#plot").click(position={"x": 5, "y": 5})
    frame.locator("#plot").press("ArrowRight")
    assert frame.locator("#near button").count() == 10
    assert frame.locator("html").get_attribute("data-theme") == "light"  # as this JupyterLab is
