"""The forms in which the layers of a transformer are written: equal in what they compute, each fast on other devices.

``plain``: stock operators, for any device and for exported files. ``kernel``: attention in one kernel, where a device
has it. ``products``: gradients and means as matrix products and elementwise operators that can be fused, for CPUs.
``runtime/kernels.py`` says which suits the device at hand.
"""

from typing import Literal

Form = Literal["plain", "kernel", "products"]
