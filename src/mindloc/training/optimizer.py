"""AdamW as one Cell: exact bias correction, decoupled decay, learning-rate scale and decay per parameter."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindloc.config.sections import OptimizerConfig
from mindloc.errors import ConfigError


class AdamW(nn.Cell):
    r"""One AdamW step on the trainable parameters.

    .. math:: w \leftarrow (1 - \eta \lambda) w, \qquad
              w \leftarrow w - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    It calls ops.Adam, whose kernel is fast. That adds epsilon before the bias correction, so its epsilon is
    :math:`\epsilon \sqrt{1 - \beta_2^t}` here, its learning rate is the corrected one, and its beta powers are 0.

    Args:
        parameters: trainable parameters of the model; ``requires_grad`` is set to False for those that settings freeze.

    References:
        Decoupled Weight Decay Regularization, arXiv:1711.05101.
    """

    def __init__(self, parameters: Sequence[Parameter], config: OptimizerConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        rows = {row.name: row for row in parameter_table(parameters, config)}
        for parameter in parameters:
            parameter.requires_grad = not rows[parameter.name].frozen
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        self.parameters = ParameterTuple(trainable)
        self.moment1 = _zeros_like(trainable, "moment1")
        self.moment2 = _zeros_like(trainable, "moment2")
        self.step_count = Parameter(Tensor(np.zeros(1, np.int32)), name="step_count", requires_grad=False)
        settings = [(rows[parameter.name].lr_scale, rows[parameter.name].decay) for parameter in trainable]
        self.groups = tuple(dict.fromkeys(settings))  # few: each costs two scalar operations per step
        self.group_of = tuple(self.groups.index(setting) for setting in settings)
        self.count = len(trainable)
        self.beta1, self.beta2 = config.betas
        # betas in float32 as in the kernel: 1 - float32(0.999) differs from 0.001 by 1e-5, and both must use one value
        self.log_beta1, self.log_beta2 = (math.log(float(np.float32(beta))) for beta in config.betas)
        self.eps = config.eps
        self.adam = ops.Adam()
        self.expm1 = ops.Expm1()

    def construct(self, gradients, lr):
        """Update all trainable parameters; ``gradients`` in their order, ``lr`` a float32 tensor of shape ()."""
        ops.assign_add(self.step_count, Tensor([1], ms.int32))
        t = ops.cast(self.step_count, ms.float32).reshape(())
        # 1 - beta^t without the cancellation of float32 powers at small t
        correction1 = -self.expm1(t * self.log_beta1)
        correction2 = ops.sqrt(-self.expm1(t * self.log_beta2))
        eps = self.eps * correction2
        zero = Tensor(0.0, ms.float32)
        lrs, keeps = (), ()
        for lr_scale, decay in self.groups:
            lrs = lrs + (lr * (correction2 / correction1) * lr_scale,)
            keeps = keeps + (1.0 - lr * (lr_scale * decay),)
        for i in range(self.count):
            parameter, group = self.parameters[i], self.group_of[i]
            if self.groups[group][1] != 0.0:
                ops.assign(parameter, parameter * keeps[group])
            self.adam(
                parameter,
                self.moment1[i],
                self.moment2[i],
                zero,
                zero,
                lrs[group],
                self.beta1,
                self.beta2,
                eps,
                gradients[i],
            )
        return t


def _zeros_like(parameters: Sequence[Parameter], prefix: str) -> ParameterTuple:
    return ParameterTuple(
        [
            Parameter(Tensor(np.zeros(p.shape, np.float32)), name=f"{prefix}.{p.name}", requires_grad=False)
            for p in parameters
        ]
    )


@dataclass(frozen=True)
class ParameterRow:
    """Optimizer settings of one parameter."""

    name: str
    lr_scale: float = 1.0
    decay: float = 0.0  # decoupled weight decay, multiplied by the learning rate in each step
    frozen: bool = False


def parameter_table(parameters: Sequence[Parameter], config: OptimizerConfig) -> list[ParameterRow]:
    """One row per parameter, in the same order.

    Prefixes in ``freeze`` and ``lr_scale`` end at a dot or at the end of the name, such as "backbone.patch_embed"; the
    longest match sets the scale. Without ``decay_norm_and_bias`` there is no decay for parameters with one axis (norm,
    bias, LayerScale, logit scale) and those with ``decay=False`` (class token and positions of a plain ViT).

    Raises:
        ConfigError: a prefix matches no parameter, or all parameters are frozen.
    """
    names = [parameter.name for parameter in parameters]
    _check_prefixes("optimizer.freeze", config.freeze, names)
    _check_prefixes("optimizer.lr_scale", config.lr_scale, names)
    table = [
        ParameterRow(
            name=parameter.name,
            lr_scale=_longest(config.lr_scale, parameter.name),
            decay=config.weight_decay if config.decay_norm_and_bias or _is_decayed(parameter) else 0.0,
            frozen=any(_fits(prefix, parameter.name) for prefix in config.freeze),
        )
        for parameter in parameters
    ]
    if all(row.frozen for row in table):
        raise ConfigError(f"optimizer.freeze={list(config.freeze)} freezes all {len(table)} parameters; freeze fewer")
    return table


def _is_decayed(parameter: Parameter) -> bool:
    return len(parameter.shape) > 1 and getattr(parameter, "decay", True)


def _fits(prefix: str, name: str) -> bool:
    prefix = prefix.rstrip(".")
    return name == prefix or name.startswith(f"{prefix}.")


def _longest(lr_scale: Mapping[str, float], name: str) -> float:
    fitting = [prefix for prefix in lr_scale if _fits(prefix, name)]
    return lr_scale[max(fitting, key=len)] if fitting else 1.0


def _check_prefixes(key: str, prefixes: Iterable[str], names: Sequence[str]) -> None:
    for prefix in prefixes:
        if not any(_fits(prefix, name) for name in names):
            heads = sorted({name.split(".")[0] for name in names})
            raise ConfigError(f"{key} has {prefix!r}, which matches no parameter; names start with {', '.join(heads)}")
