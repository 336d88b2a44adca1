"What the whole study costs on an empty store: seconds and memory of each notebook, and of all. It takes as long as the study."

import argparse, math, os, re, subprocess, sys, tempfile, threading, time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import psutil
from common import machine

from sslnb.core import best_device
from sslnb.runs import provenance


def memory(pid: int) -> tuple[dict[int, float], set[int]]:
    "GiB of a process and of all that it has started (PSS, of Linux: what several share is divided); which of these are kernels."
    found, kernels, all_of_it = {}, set(), []
    with suppress(psutil.Error): all_of_it = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for p in all_of_it:
        with suppress(psutil.Error):  # it may have just ended
            found[p.pid] = p.memory_full_info().pss / 2**30
            if "ipykernel_launcher" in p.cmdline(): kernels.add(p.pid)
    return found, kernels


def watch(study: subprocess.Popen) -> tuple[list[dict], float]:
    "A row for each notebook as it ends, and the peak of all processes together."
    lines, peaks, highest, rows = SimpleQueue(), {}, 0.0, []
    reader = threading.Thread(target=lambda: [lines.put(line) for line in study.stdout])
    reader.start()
    while reader.is_alive() or not lines.empty():
        told = [lines.get() for _ in range(lines.qsize())]  # before looking: the kernel of what has ended is gone by now
        now, running = memory(study.pid)
        highest = max(highest, sum(now.values()))
        for pid in running: peaks[pid] = max(now[pid], peaks.get(pid, 0))
        for ended in filter(None, (re.match(r"(\w+): (\w+) after (\d+) s", line) for line in told)):
            kernel = next((pid for pid in peaks if pid not in running), None)
            rows.append({"notebook": ended[1], "state": ended[2], "seconds": int(ended[3]),
                         "GiB": f"{peaks.pop(kernel, math.nan):.2f}"})
            print(*rows[-1].values(), flush=True)
        time.sleep(0.5)
    return sorted(rows, key=lambda r: r["notebook"]), highest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for store and reports, empty at first (default: one that is deleted)")
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).absolute()
        if folder.exists() and any(folder.iterdir()): parser.error(f"{folder} is not empty")
        env = os.environ | {"SSLNB_STORE": str(folder / "store"), "SSLNB_REPORTS": str(folder / "reports"),
                            "SSLNB_SHELVES": ""}
        more = more or ["--scale", "quick", "--data", "shapes"]
        start = time.monotonic()
        study = subprocess.Popen([sys.executable, "-m", "sslnb", "study", *more], env=env, encoding="utf-8",
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        rows, peak = watch(study)
        seconds = time.monotonic() - start
    print(f"\n**bench_study {' '.join(more)}**: " + "; ".join(f"{k} {v}" for k, v in
          (provenance(best_device()) | {"machine": machine()}).items()) + "\n")
    print("| notebook | state | seconds | GiB |\n|---|---|---|---|")
    for row in rows: print("| " + " | ".join(map(str, row.values())) + " |")
    print(f"\nall together: {seconds:.0f} s, at most {peak:.2f} GiB, exit code {study.wait()}")


if __name__ == "__main__": main()
