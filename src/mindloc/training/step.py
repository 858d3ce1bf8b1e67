"""One training step as one graph: encode, gather, loss, gradients, finite check, clip, update or skip.

``Model.train`` runs ``TrainStep``; its parts follow in the order of use.

Shapes: B pairs of this rank's batch, G pairs of the global batch, P parts of a batch, S numbers per pair (dimensions of
all its descriptors), H and W image height and width per view.
"""

from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindloc.config.sections import TrainConfig
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.compilation import compiling
from mindloc.training.data_parallel import GatherOutputs, average_gradients
from mindloc.training.optimizer import AdamW


class TrainStep(nn.Cell):
    """Loss, gradients and update of one batch.

    A step whose gradient is not finite changes neither weights nor moments nor the optimizer's step count.

    Args:
        encoder: (query, reference) -> dict of outputs; ``compared_outputs`` names those that the criterion reads.
        criterion: (outputs, targets, mask) -> (total, dict of components); ``component_names`` names the components,
            ``targets`` the targets.
        optimizer: of the encoder's trainable parameters; its settings clip the mean gradient of the whole batch.
        config: ``accumulate`` is the number of parts of a batch. Without ``grad_cache`` the loss is computed in each
            part and the update uses the mean gradient: parts do not share negatives. With it they do: the gradient is
            that of the whole batch, see ``GradCache``. With fp16 the loss is scaled.
        cluster: the ranks that share a batch; each has an equal number of rows of each part.
    """

    def __init__(
        self,
        encoder: nn.Cell,
        criterion: nn.Cell,
        optimizer: AdamW,
        config: TrainConfig = TrainConfig(),  # noqa: B008 - frozen
        cluster: Cluster = ALONE,
    ):
        super().__init__(auto_prefix=False)  # parameters keep their names in checkpoints
        if config.recompute:
            encoder.recompute_blocks()
        self.encoder, self.optimizer = encoder, optimizer
        self.component_names = criterion.component_names
        self.trainable = ParameterTuple(optimizer.parameters)
        parts, is_cached, is_scaled = config.accumulate, config.grad_cache, config.precision == "fp16"
        gather, self.reduce_gradients = nn.Identity(), nn.Identity()
        if cluster.size > 1:
            gather = GatherOutputs(encoder.compared_outputs, parts if is_cached else 1)
            self.reduce_gradients = average_gradients(optimizer.parameters)
        by_parts = GradCache if is_cached else MeanGradients
        self.mean_gradients = by_parts(encoder, criterion, self.trainable, parts, gather)
        self.loss_scale = LossScale()
        if is_scaled:
            self.loss_scale = LossScale(config.loss_scale_init, config.loss_scale_window, dynamic=True)
        self.norm = GlobalNorm()
        self.clip = ClipGradients(optimizer.config.clip, optimizer.config.clip_at, is_scaled)
        self.lr = Parameter(Tensor(np.array(0.0, np.float32)), name="learning_rate", requires_grad=False)

    def compile(self, *args, **kwargs):
        """``nn.Cell.compile``, which Model.train calls at every step; the first call counts as compile time."""
        if self.compile_cache:
            return super().compile(*args, **kwargs)
        with compiling():
            return super().compile(*args, **kwargs)

    def construct(self, query, reference, mask, *targets):
        """One step.

        Args:
            query, reference: (B, 3, H, W) float32.
            mask: (G, G) bool, True where the loss counts the cell.
            targets: of each pair, (G, ...) each, in the order of the criterion's ``targets``.

        Returns:
            loss, its components in the order of ``component_names``, gradient norm before clipping, whether the norm
            was finite and the update made (bool), the loss scale used.
        """
        scale = self.loss_scale.scale * 1.0  # a copy, as the parameter changes below
        loss, components, gradients = self.mean_gradients(query, reference, mask, scale, *targets)
        gradients = self.reduce_gradients(gradients)
        unscale = 1.0 / scale
        norm = self.norm(gradients) * unscale
        finite = ops.isfinite(norm)
        if finite:
            self.optimizer(self.clip(gradients, norm, unscale), self.lr)
        self.loss_scale(finite)
        return loss, components, norm, finite, scale


class MeanGradients(nn.Cell):
    """Loss, components and gradients as means over the parts of a batch; parts do not share negatives.

    The graph contains one part, which runs P times: memory is needed for one part only.

    Args:
        encoder: (query, reference) -> dict of outputs.
        criterion: (outputs, targets, mask) -> (total, dict of components); ``component_names`` names the components,
            ``targets`` the targets.
        weights: ParameterTuple to differentiate by.
        parts: P, a divisor of B. Every rank has an equal number of rows of each part, in the order of the parts.
        gather: outputs of this rank -> outputs of all ranks.
    """

    def __init__(self, encoder: nn.Cell, criterion: nn.Cell, weights, parts: int, gather: nn.Cell):
        super().__init__(auto_prefix=False)
        self.encoder, self.criterion, self.gather = encoder, criterion, gather
        self.component_names = criterion.component_names
        self.weights, self.parts, self.counted = weights, parts, 1 + len(criterion.component_names)
        self.value_and_grad = ops.value_and_grad(self.forward, None, weights, has_aux=True)
        self.add = ops.Add()
        self.map = ops.HyperMap()

    def forward(self, query, reference, mask, scale, *targets):
        """Loss times ``scale`` (to differentiate), loss, components in the order of ``component_names``."""
        outputs = self.gather(self.encoder(query, reference))
        loss, components = self.criterion(outputs, named(self.criterion.targets, targets), mask)
        # a tuple, as a dict as a graph's output would be returned to Python on Ascend
        return loss * scale, loss, tuple([components[name] for name in self.component_names])

    def construct(self, query, reference, mask, scale, *targets):
        """Loss and gradients of one batch.

        Args:
            query, reference: (B, 3, H, W) float32.
            mask: (G, G) bool.
            scale: scalar, factor on the loss before differentiation.
            targets: (G, ...) each, in the order of the criterion's ``targets``.

        Returns:
            loss, tuple of its components, tuple of gradients of the scaled loss in the order of the weights.
        """
        if self.parts == 1:
            (_, loss, components), gradients = self.value_and_grad(query, reference, mask, scale, *targets)
            return loss, components, gradients
        return self._over_parts(query, reference, mask, scale, targets)

    def _over_parts(self, query, reference, mask, scale, targets):
        queries, references = in_parts(query, self.parts), in_parts(reference, self.parts)
        masks, target_parts = in_parts(mask, self.parts), tuple([in_parts(target, self.parts) for target in targets])
        losses = ops.zeros(self.counted, ms.float32)  # the loss, then its components
        gradients = self.map(ops.zeros_like, self.weights)
        i = Tensor(0, ms.int32)
        while i < self.parts:
            (_, part_loss, part_components), part_gradients = self.value_and_grad(
                part_of(queries, i),
                part_of(references, i),
                own_cells(masks, i),
                scale / self.parts,
                *tuple([part_of(target, i) for target in target_parts]),
            )
            losses = losses + ops.stack((part_loss, *part_components))
            gradients = self.map(self.add, gradients, part_gradients)
            i = i + 1
        losses = losses / self.parts
        return losses[0], tuple([losses[k] for k in range(1, self.counted)]), gradients


class GradCache(nn.Cell):
    r"""Loss, components and gradients of a whole batch whose parts are encoded one at a time, twice.

    .. math:: \frac{\partial L}{\partial \theta}
              = \sum_p \Big(\frac{\partial D_p}{\partial \theta}\Big)^T \frac{\partial L}{\partial D_p}

    First every part is encoded and only its descriptors D are kept. The loss over all descriptors is differentiated by
    them. Then every part is encoded again, and the gradient is propagated through the encoder. The result equals that
    of the whole batch up to rounding, since no descriptor depends on another image, and costs one more forward pass.

    It replaces ``MeanGradients`` and has the same arguments, also in ``construct``. In addition, ``compared_outputs``
    of the encoder names the outputs that the criterion reads, and the rows that ``gather`` gets are ordered by part.
    """

    def __init__(self, encoder: nn.Cell, criterion: nn.Cell, weights, parts: int, gather: nn.Cell):
        super().__init__(auto_prefix=False)
        self.encoder, self.criterion, self.gather = encoder, criterion, gather
        self.component_names = criterion.component_names
        self.names = encoder.compared_outputs
        self.weights, self.parts = weights, parts
        self.loss_gradient = ops.value_and_grad(self.loss, (0, 1), has_aux=True)
        self.encoder_gradient = ops.GradOperation(get_by_list=True, sens_param=True)(self.described, weights)
        self.add = ops.Add()
        self.map = ops.HyperMap()

    def construct(self, query, reference, mask, scale, *targets):
        """Loss and gradients of one batch, see ``MeanGradients.construct``."""
        queries, references = in_parts(query, self.parts), in_parts(reference, self.parts)
        # only shapes and logit scale are used, so the compiler removes the rest of this forward pass
        outputs = self.encoder(queries[0], references[0])
        lengths = tuple([outputs[name].shape[1] for name in self.names])
        rows_PBS = self._describe_all(queries, references, sum(lengths), scale)
        rows_BS = ops.reshape(rows_PBS, (-1, sum(lengths)))
        (_, loss, components), (by_row_BS, by_scale) = self.loss_gradient(
            rows_BS, outputs["logit_scale"], lengths, mask, scale, *targets
        )
        return loss, components, self._propagate(queries, references, in_parts(by_row_BS, self.parts), by_scale)

    def described(self, query, reference):
        """Descriptors of a part, one row (S numbers) per pair, and the logit scale."""
        outputs = self.encoder(query, reference)
        return ops.concat(tuple([outputs[name] for name in self.names]), 1), outputs["logit_scale"]

    def loss(self, rows_BS, logit_scale, lengths, mask, scale, *targets):
        """Loss times ``scale``, loss, components, over the rows of all ranks."""
        outputs = {"logit_scale": logit_scale}
        first = 0
        for i in range(len(self.names)):
            outputs[self.names[i]] = rows_BS[:, first : first + lengths[i]]
            first = first + lengths[i]
        targets = named(self.criterion.targets, targets)
        loss, components = self.criterion(self.gather(outputs), targets, mask)
        return loss * scale, loss, tuple([components[name] for name in self.component_names])

    def _describe_all(self, queries, references, length, scale):
        """(P, B / P, S): the descriptors of every part."""
        # computed from an input, else the compiler would treat the loss as a constant
        rows_PBS = ops.broadcast_to(scale * 0, (self.parts, queries.shape[1], length))
        i = Tensor(0, ms.int32)
        while i < self.parts:
            rows_BS, _ = self.described(part_of(queries, i), part_of(references, i))
            rows_PBS = ops.tensor_scatter_update(rows_PBS, ops.reshape(i, (1, 1)), ops.expand_dims(rows_BS, 0))
            i = i + 1
        return rows_PBS

    def _propagate(self, queries, references, by_row_PBS, by_scale):
        """Gradients by the weights, through the encoder; the gradient by the logit scale is added once, in part 0."""
        gradients = self.map(ops.zeros_like, self.weights)
        i = Tensor(0, ms.int32)
        while i < self.parts:
            by_outputs = (part_of(by_row_PBS, i), by_scale * ops.cast(i == 0, ms.float32))
            of_part = self.encoder_gradient(part_of(queries, i), part_of(references, i), by_outputs)
            gradients = self.map(self.add, gradients, of_part)
            i = i + 1
        return gradients


def named(names, values):
    """{name: value}, in a form that a graph supports."""
    table = {}
    for i in range(len(names)):
        table[names[i]] = values[i]
    return table


def in_parts(rows, parts):
    """(rows, ...) -> (parts, rows / parts, ...)."""
    return ops.reshape(rows, (parts, rows.shape[0] // parts) + rows.shape[1:])


def part_of(parts, i):
    """Part ``i``, a Tensor, so that one graph serves all parts."""
    return ops.gather(parts, i, 0)


def own_cells(masks, i):
    """Cells of a mask (P, G / P, G) whose row and column are in part i."""
    rows = part_of(masks, i)
    # without a transpose: AKG can't compile that of an 8 by 8 bool matrix (seen in 2.8.0)
    return ops.gather(ops.reshape(rows, (rows.shape[0], masks.shape[0], -1)), i, 1)


class GlobalNorm(nn.Cell):
    """L2 norm of all gradients as one vector, float32; not finite if any entry is not.

    On a CPU the sum of squares is a matrix product of the flat gradient with itself, in an eighth of the time of the
    reduction kernel. Elsewhere matrix units may round their inputs, so the reduction is used.
    """

    def __init__(self):
        super().__init__()
        self.by_product = ms.get_context("device_target") == "CPU"
        self.product = ops.MatMul(transpose_b=True)

    def construct(self, gradients):
        total = Tensor(0.0, ms.float32)
        for gradient in gradients:
            if self.by_product:
                row = ops.cast(gradient, ms.float32).reshape(1, -1)
                total = total + self.product(row, row).reshape(())
            else:
                total = total + ops.square(ops.cast(gradient, ms.float32)).sum()
        return ops.sqrt(total)


class ClipGradients(nn.Cell):
    """Gradients -> unscaled gradients, clipped by value, by global norm, or not at all."""

    def __init__(self, clip: Literal["value", "norm", "none"], clip_at: float, scaled: bool):
        super().__init__()
        self.clip, self.clip_at, self.scaled = clip, clip_at, scaled
        self.map = ops.HyperMap()

    def construct(self, gradients, norm, unscale):
        """``norm``: of the unscaled gradients; ``unscale``: 1 / loss scale, used when scaled."""
        factor = unscale
        if self.clip == "norm":
            # 1e-6 as in PyTorch's clip_grad_norm_, the reference of the test
            factor = unscale * ops.minimum(self.clip_at / (norm + 1e-6), Tensor(1.0, ms.float32))
        # a map: iterations of a loop with branches nest, and MindSpore limits the call depth to 1000
        return self.map(ops.partial(self.bounded, factor), gradients)

    def bounded(self, factor, gradient):
        """One gradient, unscaled and clipped."""
        if self.scaled or self.clip == "norm":
            gradient = gradient * factor
        if self.clip == "value":
            gradient = ops.clamp(gradient, -self.clip_at, self.clip_at)
        return gradient


class LossScale(nn.Cell):
    """The loss scale, with its state as parameters, so that a resumed run continues with it.

    Args:
        initial: initial scale; 1 with ``dynamic=False`` means no scaling.
        window: steps without overflow after which the scale doubles.
        dynamic: False keeps the scale constant.
    """

    def __init__(self, initial: float = 1.0, window: int = 2000, dynamic: bool = False):
        super().__init__(auto_prefix=False)
        self.dynamic, self.window = dynamic, window
        self.scale = Parameter(Tensor(np.array(initial, np.float32)), name="loss_scale", requires_grad=False)
        self.good_steps = Parameter(Tensor(np.array(0, np.int32)), name="good_steps", requires_grad=False)

    def construct(self, finite):
        """Update the scale after a step; ``finite``: whether all its gradients were finite."""
        if self.dynamic:
            good_steps = ops.select(finite, self.good_steps + 1, ops.zeros_like(self.good_steps))
            full = good_steps >= self.window
            grown = ops.select(full, self.scale * 2.0, self.scale * 1.0)
            halved = ops.maximum(self.scale * 0.5, Tensor(1.0, ms.float32))
            ops.assign(self.scale, ops.select(finite, grown, halved))
            ops.assign(self.good_steps, ops.select(full, ops.zeros_like(good_steps), good_steps))
        return finite
