"The project as a whole: one truth for settings, notebooks that can be shown."
import ast
import configparser
import csv
import importlib
import io
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from papermill.translators import PythonTranslator

from sslnb.tools import front, notebook

ROOT = Path(__file__).resolve().parents[1]
STUDY = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
WINGS = {wing: sorted((ROOT / "nbs" / wing).glob("*.ipynb")) for wing in ("lib", "tools", "course")}
LIBRARY = sum(WINGS.values(), [])
COMMITTED = [*STUDY, *LIBRARY]


def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def test_nbdev_3_finds_the_same_settings_in_pyproject():
    ini, table = settings(), tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["nbdev"]
    for key, value in table.items():
        plain = " ".join(value) if isinstance(value, list) else str(value)
        assert ini[key] == plain, key
    nbdev = {"nbs_path", "lib_path", "doc_path", "recursive", "tst_flags", "allowed_cell_metadata_keys",
             "put_version_in_init"}
    assert set(table) == nbdev


def test_version_is_written_once():
    assert f'__version__ = "{settings()["version"]}"' in (ROOT / "sslnb" / "__init__.py").read_text("utf-8")


def test_every_pinned_requirement_has_a_range_or_pin_in_settings():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").split())
    required = [r for key in settings() if key.endswith("requirements") for r in settings()[key].split()]
    for requirement in required:
        assert re.split(r"[=<>]", requirement)[0] in pins, requirement


def test_one_library_notebook_per_module():
    for wing, folder in (("lib", "."), ("tools", "tools"), ("course", "course")):
        modules = {p.stem for p in (ROOT / "sslnb" / folder).glob("[!_]*.py")}
        exported = {p: re.search(r"#\| default_exp ([\w.]+)", p.read_text("utf-8"))[1] for p in WINGS[wing]}
        assert modules == {name.removeprefix(f"{wing}.") for name in exported.values()}
        for path, name in exported.items():
            usual = {"lib": path.stem[3:], "tools": f"tools.{path.stem[3:]}",
                     "course": f"course.checks_{path.name[:2]}"}[wing]
            assert name == usual.replace("checks_00", "exercises")


def test_a_module_imports_only_from_those_before_it():
    order = [p.stem[3:] for p in WINGS["lib"]]
    assert [p.stem[:2] for p in WINGS["lib"]] == [f"{i:02d}" for i in range(len(order))]
    for k, name in enumerate(order):
        tree = ast.parse((ROOT / "sslnb" / f"{name}.py").read_text("utf-8"))
        within = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 1]
        used = {n.module for n in within if n.module} | {a.name for n in within if not n.module for a in n.names}
        assert used & set(order) <= set(order[:k]), name


def test_checks_are_in_a_notebook_named_like_that_of_the_exercises():
    assert [p.name for p in WINGS["course"]] == ["00_exercises.ipynb", *(p.name for p in STUDY)]


def test_no_module_of_the_library_imports_a_tool_or_a_check():
    for path in (ROOT / "sslnb").glob("[!_]*.py"):
        assert not re.search(r"import.*\b(tools|course)\b|from (sslnb)?\.(tools|course)",
                             path.read_text("utf-8")), path.name


def test_every_folder_of_the_package_and_every_file_in_it_is_packed():
    packing = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = [p.parent.relative_to(ROOT) for p in (ROOT / "sslnb").rglob("__init__.py")]
    assert set(packing["packages"]) == {".".join(folder.parts) for folder in folders}
    packed = {p for name, globs in packing["package-data"].items() for g in globs
              for p in ROOT.joinpath(*name.split(".")).glob(g)}
    there = {p for p in (ROOT / "sslnb").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert there == packed != set()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_notebook_is_fit_to_be_shown(path):
    assert path.stat().st_size < 1.5e6
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert "widgets" not in nb.metadata
    ids = [c.id for c in nb.cells]
    assert len(ids) == len(set(ids))
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error" and output.get("name") != "stderr", (cell.id, output)


@pytest.mark.parametrize("path", STUDY, ids=lambda p: p.name)
def test_study_notebook_follows_the_template(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [c for c in cells if c.cell_type == "code"]
    assert code[0].id == "install" and len(code[0].source.splitlines()) <= 15
    assert [c for c in code if "parameters" in c.metadata.get("tags", [])] == code[1:2], "then come the parameters"
    assert all(isinstance(node, ast.AnnAssign) for node in ast.parse(code[1].source).body), "typed assignments only"
    assert all("  # " in line for line in code[1].source.splitlines()), "a comment each"
    assert 30 <= len(cells) <= 60
    assert not any("nbdev_export" in c.source or "#| export" in c.source for c in code)
    long = [c.id for c in code[2:] if len(c.source.splitlines()) > 20]
    assert not long, f"cells over 20 lines: {long}"
    text = "\n".join(c.source for c in cells)
    for part in ("You will learn", "Predict", "Verdict", "Summary", "Questions", "Exercises"):
        assert part.lower() in text.lower(), part


PROTOCOL = {  # decimals that belong to a paper's protocol, to a rule or to arithmetic, and are not in reported.csv
    "0.0125", "0.02", "1.85", "0.275", "18.5", "2.5", "1.2", "4.3", "1.96"}


def decimals(markdown):
    "The decimal numbers in prose: not in code, formulas or links, and no numbers of exercises."
    text = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|\b(?:0\d|1[01])\.[1-9]\b(?!\d)", "", markdown,
                  flags=re.DOTALL)
    return {f"{float(x):g}" for x in re.findall(r"(?<![\w.§/])\d*\.\d+(?![\w.]*\d)", text)}


@pytest.mark.parametrize("path", STUDY, ids=lambda p: p.name)
def test_no_measured_number_is_typed_into_prose(path):
    printed = [float(row["value"])
               for row in csv.DictReader(io.StringIO((ROOT / "data" / "reported.csv").read_text("utf-8")))]
    known = ({f"{round(v / k, d):g}" for v in printed for k in (0.01, 1, 100) for d in (1, 2, 3, 4)}
             | {f"{float(x):g}" for x in PROTOCOL})
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown" and c.id != "header"]
    typed = {c.id: found for c in cells if (found := decimals(c.source) - known)}
    assert not typed, "let code make the sentence: study.say(...)"
    assert not [c.id for c in cells if re.search(r"committed (quick )?runs?\b|in the quick runs", c.source)]


def test_a_typed_number_is_found():
    assert decimals("SimCLR has .31 here, and 0.84 `0.5` $0.07$ (exercise 04.2), 14.5 %") == {"0.31", "0.84", "14.5"}


def unsaid(tree):
    "The calls that read or write text without saying its encoding, and the word that gives them away."
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call): continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {k.arg: k.value for k in node.keywords}
        if "encoding" in given: continue
        if name == "read_text" and not node.args or name == "write_text" and len(node.args) < 2: yield node, name
        if getattr(given.get("text"), "value", None) is True: yield node, "text=True"
        if name != "open" or ast.unparse(node.func) in ("Image.open", "webbrowser.open", "os.open"): continue
        mode = [given["mode"]] if "mode" in given else node.args[isinstance(node.func, ast.Name):][:1]
        if not (mode and "b" in str(getattr(mode[0], "value", ""))): yield node, name


TEXTS = [*(ROOT / "sslnb").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "docs" / "conf.py",
         ROOT / "data" / "unpack.py"]


@pytest.mark.parametrize("path", sorted(TEXTS), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_text_is_read_and_written_as_utf_8(path):
    found = [(node.lineno, name) for node, name in unsaid(ast.parse(path.read_text("utf-8")))]
    assert not found, "say encoding=\"utf-8\": elsewhere the default is another one"


@pytest.mark.parametrize("path", STUDY, ids=lambda p: p.name)
def test_papermill_reads_every_parameter(path):
    cell = next(c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", []))
    names = [node.target.id for node in ast.parse(cell.source).body]
    assert [p.name for p in PythonTranslator.inspect(cell)] == names, "write `x: int = None`, not `int | None`"


def test_two_modules_do_not_have_one_public_name():
    names = {}
    for path in (ROOT / "sslnb").rglob("*.py"):
        exported = [n.value for n in ast.parse(path.read_text("utf-8")).body
                    if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
        for name in (e.value for n in exported for e in n.elts): names.setdefault(name, []).append(path.stem)
    assert not {name: modules for name, modules in names.items() if len(modules) > 1}


def test_what_is_drawn_is_as_it_would_be_drawn_now(monkeypatch):
    monkeypatch.delenv("SSLNB_PUBLISHED")
    readme = (ROOT / "README.md").read_text("utf-8")
    assert front.with_results(readme) == readme, "make export"
    cells = {(p, c.id): c.source for p in (*STUDY, ROOT / "nbs" / "index.ipynb")
             for c in nbformat.read(p, as_version=4).cells}
    assert cells[ROOT / "nbs" / "index.ipynb", "map"] == notebook.study_map()
    for nb in notebook.notebooks(): assert cells[nb.path, "header"] == notebook.header(nb)


def test_every_name_on_the_way_to_a_verdict_is_there():
    way = (ROOT / "README.md").read_text("utf-8").split("## From `load` to a verdict")[1].split("```")[1]
    named = re.findall(r"^ *(\w+)\.(\w+)\(", way, re.MULTILINE)
    assert len(named) == 11
    for module, name in named:
        module = importlib.import_module(f"sslnb.{module}")
        assert hasattr(module, name) or hasattr(module.Study, name), name


def gives(function):
    "Does a function return or yield something, itself and not in a function inside it?"
    left = list(function.body)
    for node in left:
        if isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)): continue
        if getattr(node, "value", None) and isinstance(node, (ast.Return, ast.Yield)): return True
        left += ast.iter_child_nodes(node)
    return False


def public_functions(body, within=""):
    "The public functions of a module, and the public methods (and `__init__`) of its public classes, with their names."
    for node in body:
        name = getattr(node, "name", "_")
        if name.startswith("_") and name != "__init__": continue
        if isinstance(node, ast.ClassDef): yield from public_functions(node.body, f"{name}.")
        if isinstance(node, ast.FunctionDef): yield within + name, node


def test_public_functions_have_types():
    lacking = []
    for path in [*(ROOT / "sslnb").glob("[!_]*.py"), *(ROOT / "sslnb" / "tools").glob("[!_]*.py")]:
        for name, f in public_functions(ast.parse(path.read_text("utf-8")).body):
            if any(re.match(r"click\.|\w+\.(command|group)\(", ast.unparse(d)) for d in f.decorator_list): continue
            args = [a for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs) if a.arg not in ("self", "cls")]
            if any(a.annotation is None for a in args) or gives(f) and f.returns is None:
                lacking.append(f"{path.stem}.{name}")
    assert lacking == []


def test_type_checkers_are_told_what_patch_adds_to_images():
    body = ast.parse((ROOT / "sslnb" / "data.py").read_text("utf-8")).body
    images = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == "Images")
    told = {f.name: f.args for node in images.body if isinstance(node, ast.If) for f in node.body}
    added = {f.name: f.args for f in body if isinstance(f, ast.FunctionDef)
             and any(ast.unparse(d).startswith("patch") for d in f.decorator_list)}
    for args in added.values(): args.args[0].annotation = None
    assert {k: ast.unparse(a) for k, a in told.items()} == {k: ast.unparse(a) for k, a in added.items()} != {}
