"""The arrays of a training: out of the step's parameters into a checkpoint, and back."""

from collections.abc import Mapping

import numpy as np
from mindspore import Parameter, Tensor

from mindloc.errors import CheckpointError
from mindloc.runtime.checkpoint import State, Weights
from mindloc.training.step import TrainStep


def weights_of(step: TrainStep) -> dict[str, Parameter]:
    """Every parameter of the encoder by name, the frozen ones included."""
    return {parameter.name: parameter for parameter in step.encoder.get_parameters()}


def state_of(step: TrainStep) -> dict[str, Parameter]:
    """What goes on changing besides the weights: moments, step count, loss scale."""
    optimizer, loss_scale = step.optimizer, step.loss_scale
    parameters = [*optimizer.moment1, *optimizer.moment2, optimizer.step_count, loss_scale.scale, loss_scale.good_steps]
    return {parameter.name: parameter for parameter in parameters}


def collect_arrays(step: TrainStep) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights, training state) as arrays by name."""
    return _arrays(weights_of(step)), _arrays(state_of(step))


def load_weights_into(step: TrainStep, weights: Weights) -> None:
    """Set the encoder's weights; only before the step has run for the first time.

    Raises:
        CheckpointError: the weights of another model.
    """
    parameters = weights_of(step)
    weights.require({name: tuple(parameter.shape) for name, parameter in parameters.items()})
    _set(parameters, weights.arrays)


def load_state_into(step: TrainStep, state: State) -> None:
    """Set moments, step count and loss scale; only before the step has run for the first time.

    Raises:
        CheckpointError: the state does not fit the parameters that are trained now.
    """
    parameters = state_of(step)
    for name, parameter in parameters.items():
        if name not in state.arrays or state.arrays[name].shape != tuple(parameter.shape):
            raise CheckpointError(
                f"training state {state.path} has no {name} of shape {tuple(parameter.shape)}; was optimizer.freeze "
                "changed? begin from the weights alone with --checkpoint_start"
            )
    _set(parameters, state.arrays)


def _arrays(parameters: Mapping[str, Parameter]) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in parameters.items()}


def _set(parameters: Mapping[str, Parameter], arrays: Mapping[str, np.ndarray]) -> None:
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(arrays[name], parameter.dtype))
