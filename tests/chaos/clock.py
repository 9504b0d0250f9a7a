"""A wall clock that one process has for itself, and that can be set while it runs: a library before its own.

Only what asks for the time of day is told another one; how long something takes is as it is.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *ahead_s;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_AHEAD");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *mapped = mmap(0, sizeof *ahead_s, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) ahead_s = mapped;
    close(file);
}

static long long ahead(void) { return ahead_s ? *ahead_s : 0; }

int clock_gettime(clockid_t which, struct timespec *told) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, told);
    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) told->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *told, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(told, zone);
    if (!failed) told->tv_sec += ahead();
    return failed;
}

time_t time(time_t *told) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told) *told = now.tv_sec;
    return now.tv_sec;
}
"""


# Of programs that are started with no more of the environment than where modules are: each begins anew with the clock.
_BEGIN_ANEW = """import os, sys
if "CLOCK_AHEAD" not in os.environ:
    os.environ.update({more!r})
    os.execv(sys.executable, sys.orig_argv)
"""


def missing() -> str:
    """What keeps this machine from it, for people; empty: nothing."""
    return "" if shutil.which("cc") else "no C compiler (cc): a process cannot be given another clock"


def needs_compiler() -> None:
    if why := missing():
        pytest.skip(why)


class Clock:
    """The clock of every process that is started by `before`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._ahead, self._library = folder, folder / "clock", folder / "clock.so"
        self._ahead.write_bytes(struct.pack("q", 0))
        source = folder / "clock.c"
        source.write_text(_SOURCE)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(source), "-ldl"], check=True)

    def before(self, argv: list[str]) -> list[str]:
        """The command that has this clock."""
        return ["env", *(f"{name}={value}" for name, value in self._more().items()), *argv]

    def before_all(self, argv: list[str], modules: Path) -> list[str]:
        """The same for a Python program and all that it starts, which hand on `modules` as their PYTHONPATH."""
        site = self._folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_BEGIN_ANEW.format(more=self._more()))
        return ["env", f"PYTHONPATH={site}:{modules}", *self.before(argv)]

    def _more(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_AHEAD": str(self._ahead)}

    def set_ahead(self, seconds: int) -> None:
        """From now on the clock is so much ahead of the true time, or behind it."""
        file = os.open(self._ahead, os.O_WRONLY)
        os.pwrite(file, struct.pack("q", seconds), 0)
        os.close(file)
