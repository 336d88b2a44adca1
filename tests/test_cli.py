"The command line: a study in small, through real kernels, and every way in which it can go wrong."
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import click
import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from sslnb import verdicts
from sslnb.core import to_json
from sslnb.data import DataError
from sslnb.runs import CorruptFile, Run
from sslnb.tools import cli, execution, notebook, schedule
from sslnb.train import TrainConfig, pretrain

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(dataset="digits", method="rotnet", steps=2, batch_size=8, lr=1e-3, encoder="tiny")


@pytest.fixture
def write(tmp_path, monkeypatch):
    "write(number, code, needs): a tiny study notebook."
    place = tmp_path / "nbs"
    place.mkdir()
    monkeypatch.setenv("SSLNB_NOTEBOOKS", str(place))

    said = {}

    def write(number, code="print(x)", needs=(), minutes=None):
        said[number] = dict(papers=["rotnet"], claims=[f"R{int(number)}"], needs=list(needs), minutes=minutes or {})
        (place / "studies.yaml").write_text(json.dumps(said), "utf-8")  # JSON is YAML, too
        about = f"# {number} · Small"
        parameters = 'scale: str = "quick"  # .\ndataset: str = "digits"  # .\nx: float = 1.0  # .'
        nb = new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
        nb.cells = [new_markdown_cell(about), new_code_cell(parameters, metadata={"tags": ["parameters"]}),
                    new_code_cell(code)]
        nbformat.write(nb, place / f"{number}_small.ipynb")
    return write


@pytest.fixture
def copies(tmp_path):
    "The folder of the executed copies."
    return tmp_path / "reports" / "digits-quick"


@pytest.fixture
def instant(monkeypatch):
    "Executing takes no kernel and no time; gives the names of what was executed."
    done = []

    def execute(job, made_from, on_cell=None):
        done.append(job.notebook.number)
        job.copy.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"sslnb": {"made from": made_from, "commit": "0123456789"}}
        job.copy.write_text(json.dumps({"metadata": metadata, "cells": []}), "utf-8")
    monkeypatch.setattr(schedule, "execute", execute)
    return done


@pytest.fixture
def in_process(monkeypatch):
    "Notebooks run in this process: no kernels."
    def execute(job, made_from, on_cell=None):
        code = [c.source for c in nbformat.read(job.notebook.path, as_version=4).cells if c.cell_type == "code"]
        exec("\n".join([code[0], *(f"{k} = {v!r}" for k, v in job.parameters.items()), *code[1:]]), {})
    monkeypatch.setattr(schedule, "execute", execute)


def sslnb(*args, code=0, **kwargs):
    "What a command prints; it must end with this exit code, and never with a traceback."
    done = CliRunner().invoke(cli.cli, list(map(str, args)), **kwargs)
    assert done.exit_code == code, (done.output, done.exc_info)
    return done.output


def study(*args, **kwargs):
    "The states of all notebooks after `study` on the digits."
    told = sslnb("study", "--data", "digits", *args, **kwargs)
    return re.findall(r"^\w+ +(ok|skipped|failed|stopped)\b", told, re.MULTILINE)


def hidden(folder):
    "What killed or interrupted writing would leave."
    return [p.name for p in folder.glob(".*")]


def test_a_failed_notebook_stops_nothing_and_is_run_again(write, copies):
    write("01", "print('fine')")
    write("02", "1 / 0")
    write("03", "print('fine, too')")
    told = sslnb("study", "--data", "digits", code=1)
    assert re.search(r"02_small +failed +\d+ +In \[3\]: ZeroDivisionError: division by zero", told)
    assert sorted(p.name for p in copies.iterdir()) == ["01_small.ipynb", "02_small.failed.ipynb", "03_small.ipynb"]
    assert "as far as it came" in told and "02_small.failed.ipynb" in told
    copy = nbformat.read(copies / "01_small.ipynb", 4)
    nbformat.validate(copy)
    assert copy.cells[3].outputs[0].text == "fine\n" and str(ROOT) not in json.dumps(copy)

    write("02", "import os; os.kill(os.getpid(), 9)")
    assert study(code=1) == ["skipped", "failed", "skipped"]
    write("02", "print('mended')")
    assert study() == ["skipped", "ok", "skipped"]
    assert sorted(p.name for p in copies.iterdir()) == ["01_small.ipynb", "02_small.ipynb", "03_small.ipynb"]


def start(*args):
    "The command in a process of its own, which takes its stderr for a terminal; and the other end of that terminal."
    here, there = pty.openpty()
    termios.tcsetwinsize(there, (40, 110))
    # what a shell has put into the background ignores it
    def heeds_ctrl_c(): signal.signal(signal.SIGINT, signal.SIG_DFL)
    p = subprocess.Popen([sys.executable, "-m", "sslnb", *args], stdout=subprocess.PIPE, stderr=there, cwd="/",
                         env=os.environ.copy(), preexec_fn=heeds_ctrl_c)
    os.close(there)
    return p, here


def said(terminal):
    "All that was written to a terminal whose other end is closed."
    parts = []
    try:
        while part := os.read(terminal, 65536): parts.append(part)
    except OSError: pass  # the end
    os.close(terminal)
    return b"".join(parts).decode()


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists() or not path.read_text("utf-8"):
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.05)


def gone(pid):
    "Has this process ended?"
    try: return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError: return True


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["interrupted", "killed"])
def test_a_study_that_was_stopped_goes_on_where_it_was(how, code, write, copies, tmp_path, instant):
    seen = tmp_path / "seen"
    write("01")
    assert study() == ["ok"]  # without a kernel
    write("02", f"import os, pathlib, time\nseen = pathlib.Path({str(seen)!r})\nif not seen.exists():\n"
                "    seen.write_text(str(os.getpid()))\n    time.sleep(100)\nprint('done')")
    p, terminal = start("study", "--data", "digits")
    wait_for(seen)
    p.send_signal(how)
    p.communicate(timeout=90)
    err = said(terminal)
    assert re.search(r"02_small 4/4; 1 of 2 done \|.* gone, \d\d:\d\d left", err), err
    assert p.returncode == code, err
    assert "Traceback" not in err and (how == signal.SIGKILL or "goes on from here" in err), err
    assert (copies / "01_small.ipynb").exists() and not (copies / "02_small.ipynb").exists()
    end = time.monotonic() + 10
    while not gone(int(seen.read_text("utf-8"))):
        assert time.monotonic() < end, "the kernel lives on"
        time.sleep(0.1)
    assert how == signal.SIGKILL or not hidden(copies)
    assert study() == ["skipped", "ok"]


def test_what_is_valid_is_skipped_and_nothing_else(write, instant, monkeypatch):
    write("01"), write("02", needs=["01"]), write("03"), write("10", needs=["01", "09"])
    def ran(*args):
        instant.clear()
        study("--jobs", "1", *args)
        return instant
    assert ran() == ["01", "02", "03", "10"] and ran() == []
    assert ran("--only", "3", "--force") == ["03"] and ran() == []  # the same again is no reason
    write("01", "print('other')")
    assert ran("--only", "01") == ["01"] and ran() == ["02", "10"]  # what needs it, and only that
    monkeypatch.setattr(schedule, "library_digest", lambda: "changed")
    assert ran() == ["01", "02", "03", "10"] and ran() == []
    monkeypatch.setattr(schedule, "images_digest", lambda name: "changed")
    assert ran() == ["01", "02", "03", "10"] and ran() == []
    sslnb("run", "03", "--data", "digits", "-p", "x", "2.5")
    assert instant[-1:] == ["03"] and ran() == ["03"] and ran() == []  # that copy was made with another x


def test_two_run_at_once_and_none_before_what_it_needs(write, tmp_path, copies):
    meet = ("import os, pathlib, time\nplace, end = pathlib.Path({!r}), time.monotonic() + 60\n(place / '{}').touch()\n"
            "while not (place / '{}').exists():\n    assert time.monotonic() < end\n    time.sleep(0.05)\n"
            "print(os.environ['OMP_NUM_THREADS'])")
    write("01", meet.format(str(tmp_path), "one", "three")), write("03", meet.format(str(tmp_path), "three", "one"))
    write("02", f"import pathlib\nassert pathlib.Path({str(copies)!r}, '01_small.ipynb').exists()", needs=["01"])
    assert study("--jobs", "2") == ["ok", "ok", "ok"]
    share = str(max(1, os.cpu_count() // 2)) if "OMP_NUM_THREADS" not in os.environ else os.environ["OMP_NUM_THREADS"]
    assert nbformat.read(copies / "01_small.ipynb", 4).cells[3].outputs[0].text == f"{share}\n"


def test_the_longest_way_to_the_end_comes_first(write, instant):
    write("01", minutes={"quick": 2}), write("02", needs=["01"], minutes={"quick": 4})
    write("03", minutes={"quick": 5}), write("04", minutes={"quick": 7})
    assert study("--jobs", "1") == ["ok"] * 4 and instant == ["04", "01", "03", "02"]


def test_after_some_minutes_it_stops_and_goes_on_another_time(write, copies):
    write("01", "import time; time.sleep(100)"), write("02", needs=["01"]), write("03")
    assert study("--jobs", "2", "--minutes", "0.1") == ["stopped", "stopped", "ok"]
    assert [p.name for p in copies.iterdir()] == ["03_small.ipynb"]  # nothing of what was stopped
    write("01")
    assert study("--jobs", "2") == ["ok", "ok", "skipped"]


def test_several_launched_processes_are_told_what_to_do(write, monkeypatch):
    write("01")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in (["run", "01"], ["study"]):
        assert "sslnb.train.pretrain" in sslnb(*command, "--data", "digits", code=2)


def test_an_unreadable_copy_is_no_copy(write, copies, instant):
    write("01")
    study()
    (copies / "01_small.ipynb").write_text('{"metadata"', "utf-8")
    assert study() == ["ok"]


def test_the_library_counts_but_not_the_tools(tmp_path, monkeypatch):
    (tmp_path / "tools").mkdir()
    for name in ("a.py", "tools/cli.py"): (tmp_path / name).write_text("1", "utf-8")
    monkeypatch.setattr(execution.sslnb, "__file__", str(tmp_path / "__init__.py"))
    before = execution.library_digest()
    (tmp_path / "tools" / "cli.py").write_text("2", "utf-8")
    assert execution.library_digest() == before
    (tmp_path / "a.py").write_text("2", "utf-8")
    assert execution.library_digest() != before


def test_run_passes_parameters_and_leaves_a_good_copy_alone(write, copies, tmp_path):
    write("04", "assert x < 1, x\nprint(x, scale)")
    assert sslnb("run", "4", "--data", "digits", "-p", "x", "0.5").splitlines()[-1] == str(copies / "04_small.ipynb")
    good = (copies / "04_small.ipynb").read_bytes()
    assert b'"0.5 quick\\n"' in good
    told = sslnb("run", "04_small", "--data", "digits", code=1)
    assert "AssertionError: 1.0" in told and (copies / "04_small.ipynb").read_bytes() == good
    assert b"AssertionError" in (copies / "04_small.failed.ipynb").read_bytes() and not hidden(copies)


@pytest.mark.parametrize("args, named", [
    (["run", "7"], "no notebook 07; there are: 01_small"),
    (["run", "01", "-p", "step", "3"], "has no parameter step; it has: scale, dataset, x"),
    (["run", "01", "-p", "x", "[1, 2"], "is not a list"),
    (["run", "01", "--scale", "huge"], "'smoke', 'quick', 'hours', 'gpu', 'paper'"),
    (["study", "--data", "nothing"], "no set called 'nothing'"),
    (["study", "--only", "9"], "no notebook 09"),
    (["study", "now"], "unexpected extra argument"),
    (["data", "get", "imagenet"], "no set called 'imagenet'"),
    (["store", "prune"], "--unfinished, --older-than"),
    (["store", "prune", "--older-than", "-5", "--yes"], "not in the range x>=0"),
    (["list", "--data", "cifar11"], "no set called 'cifar11'"),
    (["list", "--data", "folder:/nonexistent"], "no folder /nonexistent"),
    (["run", "01", "-p", "scale", "nosuch"], "scale = 'nosuch': choose one of smoke, quick"),
    (["data", "get", "tiny-imagenet-20c"], "`make data` unpacks it"),
    (["data", "get", "imagenet100"], "data/README.md says how to lay it out"),
    (["race", "--data", "digits", "--entry", "WRONG"], "no entry 'WRONG': name small or resnet18"),
    (["race", "--data", "nothing"], "no set called 'nothing'"),
    (["race", "--data", f"folder:{ROOT / 'README.md'}"], "no folder"),
    (["race", "--device", "tpu"], "'cpu', 'cuda'"),
    (["race", "--seed", "-1"], "not in the range 0<="),
    (["race", "--track", "moon"], "'laptop', 'gpu'"),
    (["export", "zzzz"], "`sslnb store` lists them"),
    (["export", "zzzz", "--format", "tf"], "'torchvision', 'safetensors', 'onnx'"),
    (["export", "zzzz", "--to", str(ROOT)], "is a directory"),
    (["shelve", "--to", str(ROOT / "README.md")], "is a file"),
    (["shelve", "--data", "nothing"], "no set called 'nothing'"),
    (["shelve", "--to", str(ROOT / "README.md" / "x")], "README.md: Not a directory); name another place"),
    (["export", "zzzz", "--to", str(ROOT / "README.md" / "x.pth")], "cannot write README.md/x.pth"),
    (["explore", "--encoder", "pixels", "--to", str(ROOT / "README.md" / "x.html")], "cannot write README.md/x.html"),
    (["judge", "--encoder", "run:zz", "--to", str(ROOT / "README.md" / "x.html")], "cannot write README.md/x.html"),
    (["judge", "--encoder", "run:c581", "--encoder", "run:c581"], "two encoders have one name: run:c581, run:c581"),
    (["stduy"], "No such command")])
def test_a_mistake_is_one_line_and_exit_code_2(args, named, write, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLNB_DATA", str(tmp_path))  # no set is there
    write("01")
    told = sslnb(*args, code=2)
    assert named in told and "Traceback" not in told and told.count("Error") == 1
    assert not (tmp_path / "reports").exists()


def test_nothing_is_judged_where_there_is_no_place_for_the_records(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("SSLNB_REPORTS", str(tmp_path / "file"))
    told = sslnb("judge", "--encoder", "run:zz", "--data", "digits", code=2)
    assert f"({tmp_path / 'file'}: Not a directory); name another place" in told


@pytest.mark.parametrize("variable", ["SSLNB_DATA", "SSLNB_SHELVES"])
def test_a_variable_that_names_no_folder_is_told_of(variable, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLNB_STORE", str(tmp_path / "no store yet"))
    monkeypatch.setenv("SSLNB_DATA", str(tmp_path))
    assert f"looked for in {tmp_path}; " in sslnb("data") and "Warning" not in sslnb("data")
    (tmp_path / "file").write_text("", "utf-8")
    for place in (tmp_path / "nowhere", tmp_path / "file"):
        monkeypatch.setenv(variable, str(place))
        for command in ("data", "store"):
            assert f"Warning: {variable} names {place}, and there is no such folder\n" in sslnb(command)


def test_no_notebooks_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLNB_NOTEBOOKS", str(tmp_path))
    assert "no study notebooks in" in sslnb("list", code=2)


def test_every_command_has_help_with_examples_that_name_real_options():
    def commands(group, path=()):
        for name, command in group.commands.items():
            yield (*path, name), command
            if isinstance(command, click.Group): yield from commands(command, (*path, name))
    found = dict(commands(cli.cli))
    assert {("list",), ("run",), ("study",), ("report",), ("data", "get"), ("store", "verify"),
            ("store", "prune")} < set(found)
    for path, command in found.items():
        told = sslnb(*path, "--help")
        options = {o for p in command.params for o in p.opts}
        for group in [command] if isinstance(command, click.Group) else []:
            options |= {o for c in group.commands.values() for p in c.params for o in p.opts}
        examples = [line for line in told.split("Examples:")[1].splitlines() if line.strip().startswith("sslnb")]
        assert examples, path
        for line in examples: assert set(re.findall(r" (--?[a-z][a-z-]*)", line)) <= options, line
        for begun in re.findall("(?:run:|export )([0-9a-f]{4,})", told):
            assert len(list((ROOT / "data" / "shelf").glob(f"{begun}*/model-*"))) == 1, f"{begun} did not come along"
        if path in (("judge",), ("explore",)): assert "imagenet:" in told


def test_the_shell_completes_commands_and_numbers(write):
    write("01"), write("04")
    def completed(words):
        env = {**os.environ, "_SSLNB_COMPLETE": "bash_complete", "COMP_WORDS": words,
               "COMP_CWORD": str(words.count(" "))}
        code = "from sslnb.tools.cli import cli; cli(prog_name='sslnb')"
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True,
                              encoding="utf-8").stdout.split()
    assert completed("sslnb st") == ["plain,store", "plain,study"]
    assert completed("sslnb run 0") == ["plain,01", "plain,04"]


def test_list_says_which_commit_a_copy_is_from(write, instant):
    write("01"), write("02", needs=["01"])
    study("--only", "01")
    rows = [line.split() for line in sslnb("list", "--data", "digits").splitlines()[1:]]
    assert rows == [["01", "Small", "rotnet", "R1", "0123456789"], ["02", "Small", "rotnet", "R2", "01", "-"]]


def test_make_study_is_this_command():
    def told(*given):
        return subprocess.run(["make", "-n", "study", *given], cwd=ROOT, capture_output=True, encoding="utf-8").stdout
    assert "python -m sslnb study --scale gpu --data cifar10" in told("SCALE=gpu", "DATA=cifar10")
    assert "python -m sslnb study" in told() and "--" not in told().split("sslnb study")[1]


def test_who_names_no_set_and_no_scale_gets_the_best_that_is_there(write, instant, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLNB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SSLNB_SHELVES", str(tmp_path / "shelf"))
    write("01")

    def executed():
        sslnb("study", "--force")
        return sorted(p.parent.name for p in (tmp_path / "reports").glob("*/01_small.ipynb"))
    assert executed() == ["shapes-quick"]
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            place = tmp_path / "data" / "cifar10" / split / name
            place.mkdir(parents=True)
            for i in range(6): Image.new("RGB", (32, 32), (i, i, i)).save(place / f"{i}.png")
        if split == "train": assert executed() == ["shapes-quick"]  # half of the set is no set
    assert executed() == ["cifar10-quick", "shapes-quick"]
    for given in (["--scale", "smoke", "--data", "cifar10"], ["-p", "dataset", "shapes", "-p", "scale", "smoke"]):
        sslnb("run", "01", *given)
    assert (tmp_path / "reports" / "shapes-smoke").exists() and (tmp_path / "reports" / "cifar10-smoke").exists()
    sslnb("run", "01", "-p", "dataset", "digits")  # CIFAR-10 is there, and not wanted
    assert (tmp_path / "reports" / "digits-quick").exists()
    for place in ("shapes-smoke", "cifar10-smoke", "digits-quick"): shutil.rmtree(tmp_path / "reports" / place)
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "contents.json").write_text('{"cifar10-hours": []}', "utf-8")
    assert executed() == ["cifar10-hours", "cifar10-quick", "shapes-quick"]


def test_data_lists_drawn_and_own_sets_and_what_they_take(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLNB_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "mine" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "train" / "cat" / "1.png").write_bytes(bytes(2_000_000))
    assert "digits/train: 1,437 images" in sslnb("data", "get", "digits")
    rows = {line.split()[0]: line for line in sslnb("data").splitlines()}
    assert re.search("in scikit-learn +1,797 +10 ", rows["digits"])
    assert "not there" in rows["cifar10"]
    assert str(tmp_path / "data" / "mine") in rows["mine"] and "2.0 MB" in rows["mine"]


@pytest.fixture
def run():
    "A finished run."
    return pretrain(TrainConfig(**SMALL))


def unfinished(**other):
    "A run that was stopped."
    run = Run(TrainConfig(**SMALL | other))
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(to_json(run.config), "utf-8")
    return run


def damage_none(run): pass
def damage_cut(run): os.truncate(run.model_file(2), 1000)
def damage_bit(run):
    path = run.model_file(2)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
def damage_gone(run): run.model_file(2).unlink()
def damage_about(run): run.provenance_file.write_text("{", "utf-8")
def damage_config(run): (run.folder / "config.json").write_text('{"method": "rotnet"}', "utf-8")
def damage_swapped(run): (run.folder / "config.json").write_text(to_json(TrainConfig(**SMALL, seed=9)), "utf-8")


@pytest.mark.parametrize("damage", [damage_cut, damage_bit, damage_gone, damage_about, damage_config, damage_swapped])
def test_verify_finds_every_damage(damage, run):
    unfinished(seed=1)  # is no damage
    assert sslnb("store", "verify") == "finished runs: 1, remembered results: 0, damaged: 0\n"
    damage(run)
    told = sslnb("store", "verify", code=1)
    assert run.hash in told.splitlines()[0] and told.endswith("finished runs: 1, remembered results: 0, damaged: 1\n")


def test_store_lists_every_run(run):
    half = unfinished(seed=1)
    (half.folder / "config.json").write_text("{", "utf-8")
    lines = sslnb("store").splitlines()
    assert any(line.startswith(f"{run.hash}  rotnet  digits") and line.endswith("finished") for line in lines)
    assert any(line.startswith(f"{half.hash}  ?") and line.endswith("unfinished") for line in lines)
    assert lines[-1].startswith("runs: 2, finished: 1, ")


def test_an_empty_store_is_no_mistake():
    assert sslnb("store").splitlines()[-1].startswith("runs: 0")
    assert sslnb("store", "verify") == "finished runs: 0, remembered results: 0, damaged: 0\n"
    assert sslnb("store", "prune", "--unfinished") == "no such run\n"


def test_prune_asks_and_deletes_only_what_was_meant(run):
    half, old = unfinished(seed=1), unfinished(seed=2)
    for p in [*old.folder.iterdir(), old.folder]: os.utime(p, (time.time() - 9 * 86400,) * 2)
    sslnb("store", "prune", "--unfinished", input="n\n", code=1)
    assert half.folder.exists()
    sslnb("store", "prune", "--unfinished", "--older-than", "7", input="y\n")
    assert half.folder.exists() and not old.folder.exists()
    assert sslnb("store", "prune", "--unfinished", "--yes") == "deleted: 1\n"
    assert run.folder.exists() and not half.folder.exists()
    run.verify()


def test_prune_never_deletes_a_run_in_training(run, python):
    code = ("import sys, time; from filelock import FileLock\n"
            "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)")
    p = python(code, run.folder / ".lock")
    assert p.stdout.readline() == "held\n"
    assert f"in use, and kept: {run.hash}" in sslnb("store", "prune", "--older-than", "0", "--yes")
    run.verify()
    p.kill(), p.wait()
    sslnb("store", "prune", "--older-than", "0", "--yes")
    with pytest.raises(CorruptFile): run.verify()


USES_STORE = """from sslnb.data import load
from sslnb.evaluate import evaluate_run
from sslnb.train import TrainConfig, load_encoder, pretrain
few = load("digits", "test")[:100]
config = TrainConfig(dataset="digits", method="rotnet", steps=2, batch_size=8, lr=1e-3, encoder="tiny", seed=int(x))
run = pretrain(config)
evaluate_run(run, 2, few, few, epochs=1)
"""


def test_a_shelf_holds_what_the_notebooks_read_and_spares_the_training(write, tmp_path, monkeypatch, in_process):
    write("01", USES_STORE)
    write("02", USES_STORE.replace("int(x)", "9") + "load_encoder(run)")
    shelf = tmp_path / "shelf"
    told = sslnb("shelve", "--data", "digits", "--to", shelf).splitlines()[-1]
    assert told.startswith("runs: 2, encoders with weights: 1, remembered results: 2, ")
    assert not (tmp_path / "reports").exists()  # nothing among yours
    written = {p.relative_to(shelf): p.read_bytes() for p in shelf.rglob("*") if p.is_file()}
    sslnb("shelve", "--data", "digits", "--to", shelf)
    assert {p.relative_to(shelf): p.read_bytes() for p in shelf.rglob("*") if p.is_file()} == written

    monkeypatch.setenv("SSLNB_STORE", str(tmp_path / "other"))
    monkeypatch.setenv("SSLNB_SHELVES", str(shelf))
    assert "finished runs: 2, remembered results: 2, damaged: 0" in sslnb("store", "verify")
    sslnb("run", "01", "--data", "digits"), sslnb("run", "02", "--data", "digits")
    assert not (tmp_path / "other").exists()
    sslnb("run", "01", "--data", "digits", "-p", "x", 2)  # another seed: not on the shelf
    assert "runs: 1, finished: 1" in sslnb("store")
    result = next((shelf / "results").iterdir())
    result.write_text("{", "utf-8")
    assert "is no result" in sslnb("store", "verify", code=1)


def test_a_notebook_that_fails_puts_nothing_on_the_shelf(write, tmp_path, in_process):
    write("01", "1 / 0")
    assert "01_small failed" in sslnb("shelve", "--data", "digits", "--to", tmp_path / "shelf", code=2)
    assert not (tmp_path / "shelf").exists()


# What is at hand may be anything: other people's repositories, full disks, other languages, files that lie about.

def test_a_copy_of_the_project_inside_another_repository_has_no_commit(tmp_path):
    inner = tmp_path / "outer" / "project"
    shutil.copytree(ROOT / "sslnb", inner / "sslnb", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "settings.ini", inner)
    for command in (["init", "-q"], ["add", "-A"],
                    ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "theirs"]):
        subprocess.run(["git", "-C", tmp_path / "outer", *command], check=True)
    code = "from sslnb.core import ROOT; from sslnb.runs import commit; print(ROOT); print(commit())"
    told = subprocess.run([sys.executable, "-c", code], cwd=inner, env=os.environ | {"PYTHONPATH": str(inner)},
                          capture_output=True, encoding="utf-8", check=True).stdout.splitlines()
    assert told == [str(inner.resolve()), "unknown"]


def test_relative_places_mean_the_same_to_the_command_and_to_its_kernels(write, tmp_path, monkeypatch):
    write("01", "from sslnb import report, runs\nprint(report.reports(), runs.store_folder(), *runs.shelves())")
    monkeypatch.chdir(tmp_path)
    for name, place in dict(REPORTS="r", STORE="s", SHELVES="a:b").items(): monkeypatch.setenv(f"SSLNB_{name}", place)
    sslnb("run", "01", "--data", "digits")
    copy = nbformat.read(tmp_path / "r" / "digits-quick" / "01_small.ipynb", 4)
    assert copy.cells[3].outputs[0].text == " ".join(str(tmp_path / name) for name in "rsab") + "\n"


@pytest.fixture
def pictures(tmp_path):
    "pictures(name): a folder with a tiny image set."
    def pictures(name, shade=0):
        for split in ("train", "test"):
            for c in "ab":
                (tmp_path / name / split / c).mkdir(parents=True)
                for i in range(3):
                    Image.new("RGB", (8, 8), (shade, i, ord(c))).save(tmp_path / name / split / c / f"{i}.png")
        return tmp_path / name
    return pictures


def test_where_a_folder_is_stays_private_and_two_folders_share_nothing(write, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLNB_DATA", str(tmp_path / "data"))
    write("01", "print(dataset)\nfrom sslnb import data, report\nprint(len(data.load(dataset)))\n"
                "report.record({'top1': 0.5}, paper='rotnet', item='x', method='x', dataset=dataset, scale=scale, "
                "setting={'on': [dataset]})")
    monkeypatch.chdir(pictures("猫").parent), pictures("кошки")
    for name in ("猫", "кошки"): sslnb("run", "01", "--data", f"folder:{name}")
    copies = sorted((tmp_path / "reports").glob("*/01_small.ipynb"))
    tables = sorted((tmp_path / "reports" / "records").glob("*.csv"))
    assert len(copies) == len(tables) == 2
    for path in (*copies, *tables):
        text = path.read_text("utf-8")
        assert "folder:/" not in text and re.search("folder:(猫|кошки)", text), path


def test_the_stamp_covers_all_images_of_all_sets(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLNB_DATA", str(tmp_path / "data"))
    place = pictures("mine")
    before = execution.images_digest(f"folder:{place}")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(place / "test" / "a" / "0.png")
    after = execution.images_digest(f"folder:{place}")
    assert after != before
    Image.new("RGB", (4, 9)).save(place / "test" / "a" / "0.png")  # another size than the others
    assert execution.images_digest(f"folder:{place}") not in (before, after)
    shutil.rmtree(place / "test")  # a fifth of the others takes their place
    assert execution.images_digest(f"folder:{place}") not in (before, after)
    shutil.rmtree(place)
    with pytest.raises(DataError): execution.images_digest(f"folder:{place}")
    sets = {nb.number: execution.sets_of(execution.job(nb, {"scale": "quick", "dataset": "shapes"}))
            for nb in notebook.notebooks()}
    assert sets["01"] == ["shapes"] and sets["03"] == ["shapes", "shapes-b"] and sets["05"] == ["digits", "shapes"]
    assert sets["04"] == sets["07"] == ["shapes", "shapes-20"]
    other = {"scale": "quick", "dataset": "shapes", "counterpart": "digits"}
    assert execution.sets_of(execution.job(*notebook.chosen(["03"]), other)) == ["digits", "shapes"]


@pytest.mark.parametrize("text", ["1+2j", "1e999", "{1, 2}", "[1, 2j]", "b'x'"])
def test_what_is_no_plain_value_is_no_parameter(text, write):
    write("01")
    assert text in sslnb("run", "01", "--data", "digits", "-p", "x", text, code=2)


def test_what_the_system_refuses_is_one_line(write, monkeypatch):
    write("01")
    def full(*_): raise OSError(28, "No space left on device", "cache")
    monkeypatch.setattr(schedule, "images_digest", full)
    told = sslnb("run", "01", "--data", "digits", code=1)
    assert "No space left on device" in told and "Traceback" not in told


@pytest.mark.parametrize("text", ["", "[]", '{"metadata": 3}', '{"metadata": {"sslnb": []}, "cells": [1, {}]}', "\xff"])
def test_whatever_lies_in_the_place_of_a_copy_it_is_made_again(text, write, copies, instant):
    write("01")
    copies.mkdir(parents=True)
    (copies / "01_small.ipynb").write_text(text, "latin-1")
    sslnb("list", "--data", "digits")
    assert study() == ["ok"] and study() == ["skipped"]


def test_copies_of_a_notebook_beside_it_are_no_notebooks(write, tmp_path):
    write("01")
    shutil.copy(tmp_path / "nbs" / "01_small.ipynb", tmp_path / "nbs" / "01_small-Copy1.ipynb")
    assert [nb.path.name for nb in notebook.notebooks()] == ["01_small.ipynb"]
    shutil.copy(tmp_path / "nbs" / "01_small.ipynb", tmp_path / "nbs" / "01_other.ipynb")
    assert "have the number 01" in sslnb("list", code=2)
    (tmp_path / "nbs" / "01_other.ipynb").write_text("{", "utf-8")
    assert "01_other.ipynb is no notebook" in sslnb("list", code=2)


def test_links_to_the_worked_answers_work_in_a_copy():
    nb, = notebook.chosen(["01"])
    copy = ROOT / "reports" / "shapes-quick" / nb.path.name
    way = execution._way_to_solutions(execution.NotebookJob(nb, {}, copy))
    assert (copy.parent / way / nb.path.name).resolve() == (ROOT / "nbs" / "solutions" / nb.path.name).resolve()


def test_another_language_and_another_encoding_change_nothing(tmp_path):
    code = ("import warnings\nwarnings.filterwarnings('error', category=EncodingWarning, module=r'sslnb\\b')\n"
            "from click.testing import CliRunner\nfrom sslnb import report\n"
            "from sslnb.tools import cli, notebook, page\n"
            "report.record({'top1': .5}, paper='rotnet', item='x', method='é', dataset='猫', scale='quick')\n"
            "assert report.records().dataset.tolist() == ['猫'] "
            "and notebook.notebooks()[9].about.needs == [f'{i:02d}' for i in range(1, 10)]\n"
            "for command in (['list'], ['data'], ['store'], ['report']):\n"
            "    done = CliRunner().invoke(cli.cli, command, catch_exceptions=False)\n"
            "    assert done.exit_code == 0, done.output\n"
            "assert '猫' in (report.reports() / 'index.html').read_text('utf-8')\n")
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONWARNDEFAULTENCODING": "1"}
    (tmp_path / "data").mkdir()
    (tmp_path / "commands.py").write_text(code, "utf-8")
    done = subprocess.run([sys.executable, tmp_path / "commands.py"], env=env | {"SSLNB_DATA": str(tmp_path / "data")},
                          capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_a_notebook_says_of_itself_is_so():
    claims, found = verdicts.claims(), notebook.notebooks()
    assert {c for nb in found for c in nb.about.claims} == set(claims.index)
    for nb in found:
        cells = {c["id"]: "".join(c["source"]) for c in json.loads(nb.path.read_text("utf-8"))["cells"]}
        assert cells["header"] == notebook.header(nb), "run: make export"
        first = next(iter(cells.values()))
        assert set(re.findall(r"\*\*([A-Z]\d+)\*\*", first)) == set(nb.about.claims)
        assert re.findall(r"\(key `(\w+)`\)", first) == nb.about.papers
        measured = {claims.paper[c] for c in nb.about.claims}
        assert nb.about.papers in (["all"], ["speed"]) or measured == set(nb.about.papers)
        assert {*nb.about.needs, *nb.about.helps} <= {other.number for other in found if other.number < nb.number}


@pytest.mark.parametrize("text, says", [
    ("04: {}", 'quotes, such as "04"'), ('"04": [1]', "give some of question"),
    ('"04": {paper: [x]}', "paper means nothing"),
    ('"04": {needs: [1]}', "needs is a list of words in quotes, not"),
    ('"04": {minutes: {quick: 0}}', "minutes is a number for each scale"),
    ('"04": {memory: 3}', "memory is a number"), ("- a", "by its number"), ('"04": {', "cannot be read")])
def test_wrong_declarations_are_refused(text, says, write, tmp_path):
    write("04")
    (tmp_path / "nbs" / "studies.yaml").write_text(text, "utf-8")
    with pytest.raises(notebook.Mistake) as told: notebook.notebooks()
    assert says in str(told.value.message) and "studies.yaml" in told.value.message
