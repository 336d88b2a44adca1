"""Code in a process of its own that need not import torch first: it is a fork of a server that has done so (Python's
`forkserver`). A new Python works for some ten seconds until its first step of training."""
import functools
import multiprocessing
import os
import sys


@functools.cache
def server():
    "Where the processes come from: with nothing but imports behind it, so no threads."
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["torch._dynamo", "sslnb.train"])
    return found


def live(code, args, env, *files):
    "All that such a process does."
    os.environ.clear(), os.environ.update(env)
    for fd, file in enumerate(files, 1): os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), fd)
    sys.argv = ["-c", *args]
    exec(code, {"__name__": "__main__"})


class Forked:
    "`code` with the arguments `args`, running; as much of `subprocess.Popen` as is asked for."
    def __init__(self, code, args, folder):
        self.files = [folder / name for name in ("stdout", "stderr")]
        self.process = server().Process(target=live, args=(code, args, dict(os.environ), *map(str, self.files)))
        self.process.start()
        self.pid = self.process.pid

    def poll(self): return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.poll()

    def communicate(self, timeout=None):
        self.wait(timeout)
        return [file.read_text("utf-8") if file.exists() else "" for file in self.files]

    def kill(self):
        self.process.kill()
        self.wait()
