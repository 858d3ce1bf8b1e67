"""Asks NVIDIA's driver library for its cards: ``python driver_question.py /path/to/libcuda.so.1`` prints JSON.

A program of its own and not a function: a driver that crashes must not take the doctor with it. It imports nothing of
mindloc and answers within a second on a healthy machine.
"""

import ctypes
import json
import sys

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def ask_driver(path: str) -> dict:
    """load_error, or init (result of cuInit), version (e.g. 12040 for CUDA 12.4) and cards."""
    try:
        driver = ctypes.CDLL(path)
    except OSError as reason:
        return {"load_error": str(reason)}
    version, count = ctypes.c_int(), ctypes.c_int()
    result = driver.cuInit(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    if result == 0:
        result = driver.cuDeviceGetCount(ctypes.byref(count))
    return {"init": result, "version": version.value, "cards": [_card(driver, i) for i in range(count.value)]}


def _card(driver: ctypes.CDLL, index: int) -> dict:
    device, number, name, size = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    capability = []
    for attribute in (MAJOR, MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability.append(number.value)
    return {"name": name.value.decode(errors="replace"), "capability": capability, "memory_bytes": size.value}


if __name__ == "__main__":
    print(json.dumps(ask_driver(sys.argv[1])))
