"""What keeps a base from being forgotten while new images are streamed into it.

Every strategy has one interface and may be combined with the others; none of them is fine-tuning, as the thesis does
it. Replay alone looks at old images: it is a reference, not a competitor.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from senet import losses
from senet.checkpoint import State, restored
from senet.config import TrialConfig
from senet.data.batches import Batches
from senet.data.store import Dataset, ImageSet
from senet.device import Runtime, reproducible
from senet.errors import out_of_memory
from senet.loop import Trained, batchnorms
from senet.models import head_of

# Gradients of single images that are held at a time, in numbers: on a GPU more of them, whose kernels are launched once
# for all.
_GRADIENTS, _GRADIENTS_ON_GPU = 2**25, 2**27


class Strategy:
    """One way of not forgetting. This one does nothing: fine-tuning."""

    def attach(self, model: nn.Module) -> Sequence[nn.Module]:
        """Prepare the network, on its device, before its first step.

        Returns:
            Parts of it that stay in evaluation mode. Parameters that shall not be trained are marked.
        """
        return ()

    def penalty(self, images: Tensor, logits: Tensor) -> Tensor | float:
        """What is added to the loss of a batch: images (B, 3, H, W), logits (B, C)."""
        return 0.0

    def old_images(self, base: ImageSet) -> npt.NDArray[np.int64]:
        """Positions of the base images that are trained on again."""
        return np.empty(0, np.int64)


class FrozenStatistics(Strategy):
    """Batch-norm uses, and keeps, the statistics of the base images."""

    def attach(self, model: nn.Module) -> Sequence[nn.Module]:
        """All batch-norm layers stay in evaluation mode."""
        return batchnorms(model)


class HeadOnly(Strategy):
    """Only the last layer is trained: the features stay those of the base."""

    def attach(self, model: nn.Module) -> Sequence[nn.Module]:
        """Everything but the head stays as it is."""
        model.requires_grad_(False)
        head_of(model).requires_grad_(True)
        return batchnorms(model)


class Distillation(Strategy):
    """Learning without forgetting (Li and Hoiem 2016): stay near the base model's outputs on the new images.

    Outputs are compared as centred logits, since the margin loss sees no more of them.
    """

    def __init__(self, weight: float, teacher: nn.Module, runtime: Runtime) -> None:
        self._weight, self._runtime = weight, runtime
        teacher = teacher.eval().requires_grad_(False)
        self._teacher = teacher.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def penalty(self, images: Tensor, logits: Tensor) -> Tensor:
        """Weighted mean squared distance to the teacher's centred logits."""
        with torch.no_grad(), self._runtime.autocast():
            wanted = self._teacher(images)
        return self._weight * losses.distillation(logits, wanted.float())


class Anchor(Strategy):
    """Weights are drawn to where they were: weight / 2 · Σ F (w − w₀)².

    With F = 1 it is L2-SP (Li et al. 2018), here for the last layer too, since its classes stay; with F the Fisher
    information of the base images it is elastic weight consolidation (Kirkpatrick et al. 2017).
    """

    def __init__(self, weight: float, importance: State | None = None) -> None:
        self._weight, self._importance = weight, importance
        self._anchored: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def attach(self, model: nn.Module) -> Sequence[nn.Module]:
        """Note where every trained weight is."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                factor = None if self._importance is None else self._importance[name].to(parameter.device)
                self._anchored.append((parameter, parameter.detach().clone(), factor))
        return ()

    def penalty(self, images: Tensor, logits: Tensor) -> Tensor:
        """The weighted squared distance from the weights noted."""
        squares = [(p - start).square() for p, start, _ in self._anchored]
        factors = [factor for *_, factor in self._anchored]
        parts = [(s if factor is None else s * factor).sum() for s, factor in zip(squares, factors, strict=True)]
        return self._weight / 2 * torch.stack(parts).sum()


class Replay(Strategy):
    """REFERENCE: some old images of every class, or all of them (joint training), are mixed into the new ones."""

    def __init__(self, per_class: int | None, seed: int) -> None:
        self._per_class, self._seed = per_class, seed

    def old_images(self, base: ImageSet) -> npt.NDArray[np.int64]:
        """A random choice of training images, the same number of each class."""
        indices = base.indices("train")
        if self._per_class is None:
            return indices
        order = np.random.default_rng(self._seed).permutation(indices)
        chosen = [order[base.labels[order, c]][: self._per_class] for c in range(base.labels.shape[1])]
        return np.sort(np.concatenate(chosen))


def strategies(config: TrialConfig, base: Trained, classes: int, runtime: Runtime) -> list[Strategy]:
    """What the config's streaming knobs ask for, in the order in which they attach."""
    streaming, found = config.streaming, list[Strategy]()
    if streaming.freeze_batchnorm:
        found.append(FrozenStatistics())
    if streaming.head_only:
        found.append(HeadOnly())
    if streaming.distillation:
        teacher = restored(config.model, base.state, classes)
        found.append(Distillation(streaming.distillation, teacher, runtime))
    if streaming.l2_sp:
        found.append(Anchor(streaming.l2_sp))
    if streaming.ewc:
        assert base.importance is not None, "elastic weight consolidation needs the base's importance"
        found.append(Anchor(streaming.ewc, base.importance))
    if streaming.replay:
        found.append(Replay(None if streaming.replay == "all" else streaming.replay, config.seed))
    return found


def importance(config: TrialConfig, state: State, dataset: Dataset, images: ImageSet, runtime: Runtime) -> State:
    """How much each weight matters to the training images of `images`: the diagonal of the empirical Fisher matrix.

    It is the mean over images of the squared gradient of the trial's loss, in fp32 and evaluation mode, and belongs to
    a training phase's end: whoever streams later needs it, and not the images.
    """
    model = restored(config.model, state, len(dataset.classes)).to(runtime.device).eval().requires_grad_(False)
    weights: State = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    loss = losses.loss_of(config)

    def output_along(weights: State, image: Tensor, direction: Tensor) -> Tensor:
        scores: Tensor = functional_call(model, (weights, buffers), (image[None],))
        return (scores[0] * direction).sum()

    gradient = grad(output_along)
    gradients_by_image = vmap(gradient, in_dims=(None, 0, 0))

    def squares(pixels: Tensor, directions: Tensor) -> State:
        try:
            found = gradients_by_image(weights, pixels, directions)
        except RuntimeError as error:
            # A network of the user's own may look at its values, to choose its way by them: then one image at a time.
            if not config.model.is_custom or out_of_memory(error):
                raise
            each = [gradient(weights, *one) for one in zip(pixels, directions, strict=True)]
            found = {name: torch.stack([one[name] for one in each]) for name in weights}
        return {name: value.square().sum(dim=0) for name, value in found.items()}

    batches = Batches.of_split(dataset, images, "train", runtime.device)
    together = _GRADIENTS_ON_GPU if runtime.device.type == "cuda" else _GRADIENTS
    chunk = batches.evaluated(max(1, together // sum(p.numel() for p in weights.values())))
    sums = {name: torch.zeros_like(p) for name, p in weights.items()}
    with reproducible():
        for pixels, labels in zip(batches.evaluation(chunk), torch.split(batches.labels, chunk), strict=True):
            logits = model(pixels).requires_grad_()
            # An image's own gradient: the loss is a mean over images.
            (directions,) = torch.autograd.grad(loss(logits, labels) * len(logits), logits)
            for name, value in squares(pixels, directions).items():
                sums[name] += value
    return {name: (value / len(batches)).cpu() for name, value in sums.items()}
