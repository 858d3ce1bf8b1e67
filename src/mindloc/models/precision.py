"""The number formats that a backbone can compute in."""

from typing import Literal

import mindspore as ms

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}
