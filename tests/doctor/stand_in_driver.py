"""A stand-in for NVIDIA's driver library: just enough of libcuda.so.1 to list cards and to be linked to.

``python tests/doctor/stand_in_driver.py DIRECTORY`` makes DIRECTORY/libcuda.so.1 with a C compiler. Its answers come
from the environment of the process that loads it:

STAND_IN_CUDA_INIT     result of cuInit, default 100 (no CUDA-capable device is detected)
STAND_IN_CUDA_CARDS    comma list of compute capabilities, one per card, e.g. "8.0,9.0"; default none
STAND_IN_CUDA_VERSION  CUDA version of the driver as cuDriverGetVersion returns it, default 12040
STAND_IN_CUDA_CRASH    when set, cuInit ends the process by a segmentation fault

It computes nothing: no card, no memory, no kernel.
"""

import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

/* capability of card i as 10 * major + minor, or 0 when there are not so many */
static int capability(int i) {
    const char *text = getenv("STAND_IN_CUDA_CARDS");
    while (text && *text) {
        int major = 0, minor = 0;
        sscanf(text, "%d.%d", &major, &minor);
        if (i-- == 0) return 10 * major + minor;
        text = strchr(text, ',');
        if (text) text++;
    }
    return 0;
}

int cuInit(unsigned flags) {
    if (getenv("STAND_IN_CUDA_CRASH")) raise(SIGSEGV);
    return number("STAND_IN_CUDA_INIT", 100);
}
int cuDriverGetVersion(int *version) { *version = number("STAND_IN_CUDA_VERSION", 12040); return 0; }
int cuDeviceGetCount(int *count) { for (*count = 0; capability(*count); ++*count) {} return 0; }
int cuDeviceGet(int *device, int i) { *device = i; return capability(i) ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Stand-in %d", device); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? capability(device) / 10 : attribute == 76 ? capability(device) % 10 : 0;
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return 0; }
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuGetErrorString(int code, const char **text) { *text = "no CUDA-capable device is detected"; return 0; }

/* the plugin names these too; without a card nothing may call them */
#define NEVER(name) int name(void) { return 100; }
NEVER(cuLaunchKernel) NEVER(cuModuleGetFunction) NEVER(cuModuleLoadDataEx) NEVER(cuModuleUnload)
NEVER(cuStreamSynchronize)
"""


def has_compiler() -> bool:
    return shutil.which("gcc") is not None or shutil.which("cc") is not None


def build(directory: Path) -> Path:
    """``directory``/libcuda.so.1, compiled."""
    directory.mkdir(parents=True, exist_ok=True)
    source, library = directory / "stand_in.c", directory / "libcuda.so.1"
    source.write_text(SOURCE, encoding="utf-8")
    compiler = shutil.which("gcc") or shutil.which("cc")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
