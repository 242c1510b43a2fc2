"""Weights of TIM-Net as its authors publish them: Keras 2 ``save_weights`` files (``.hdf5``).

Such a file holds one group per layer, named by Keras in the order of creation: ``conv1d_12``,
``batch_normalization_7``, ... The numbers start anywhere, because they go on growing from fold to
fold of a cross-validation, and sort as numbers. The order of creation is: entry convolution
forward, entry convolution backward, then at every depth the two convolutions of the forward block
and the two of the backward block, each with its batch norm. One layer holds the weights of the
depths, one is the classifier.

Keras keeps convolutions as (tap, in, out) and dense layers as (in, out); torch as (out, in, tap)
and (out, in). The order of the taps is the same: the older frame first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serkit.models.timnet import TimNet, TimNetConfig
from serkit.types import InputError, MissingExtraError

__all__ = ["KerasWeightsError", "load_keras_weights"]

Kind = Literal["convolution", "norm", "dense", "fusion"]
Layer = dict[str, Any]  # name of a weight -> open HDF5 dataset

_WIDTH = 39  # coefficients and filters: the authors' network has no other
_MAX_CLASSES = 100
_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_HELP = "expected weights of TIM-Net that Keras 2 saved with save_weights('....hdf5')"


class KerasWeightsError(InputError):
    """A weight file that cannot be used; the message names the file and the reason."""


def load_keras_weights(path: Path | str) -> TimNet:
    """Read one of the authors' weight files into a network, in evaluation mode.

    Parameters
    ----------
    path
        An ``.hdf5`` file; the numbers of depths and of classes are found in it.

    Raises
    ------
    MissingExtraError
        If h5py is not installed.
    KerasWeightsError
        If the file is missing, not HDF5 or damaged, or its layers are not those of TIM-Net.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(
            "h5py", extra="keras-weights", needed_for="reading Keras weight files"
        ) from None
    path = Path(path)
    if not path.is_file():
        raise KerasWeightsError(f"{path}: no such file; {_HELP}")
    try:
        with h5py.File(path, "r") as file:
            return _build(path, _layers(path, file))
    except KerasWeightsError:
        raise
    # h5py reports damage with any of these, depending on where it is.
    except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise KerasWeightsError(
            f"{path}: not an HDF5 file, or a damaged one ({reason}); {_HELP}"
        ) from None


def _layers(path: Path, file: Any) -> dict[Kind, list[Layer]]:
    """Collect the layers of a file by kind, each kind in order of creation."""
    import h5py

    groups: defaultdict[str, Layer] = defaultdict(dict)

    def visit(name: str, thing: Any) -> None:
        if isinstance(thing, h5py.Dataset):
            layer, _, weight = name.rpartition("/")
            groups[layer][weight.partition(":")[0]] = thing

    # A whole saved model keeps the same groups one level down, beside the optimiser's.
    file.get("model_weights", file).visititems(visit)
    numbered: dict[Kind, dict[int, Layer]] = {
        "convolution": {}, "norm": {}, "dense": {}, "fusion": {},
    }  # fmt: skip
    for name, layer in groups.items():
        kind = _kind(layer)
        if kind is None:
            shapes = ", ".join(f"{key[:30]} {one.shape}" for key, one in list(layer.items())[:4])
            raise KerasWeightsError(
                f"{path}: the layer '{name[:80]}' ({shapes}) is none of TIM-Net's; {_HELP}"
            )
        digits = re.search(r"_(\d{1,9})$", name)
        number = int(digits[1]) if digits else 0  # the first of its kind has no number
        if number in numbered[kind]:
            raise KerasWeightsError(
                f"{path}: two layers of kind {kind} have the number {number}, so their order is "
                "not known: expected the names that Keras gives by itself, such as conv1d_12"
            )
        numbered[kind][number] = layer
    return {kind: [found[n] for n in sorted(found)] for kind, found in numbered.items()}


def _kind(layer: Layer) -> Kind | None:
    shapes = {name: one.shape for name, one in layer.items()}
    if set(shapes) == set(_NORM):
        return "norm"
    if set(shapes) == {"kernel", "bias"}:
        return {3: "convolution", 2: "dense"}.get(len(shapes["kernel"]))  # type: ignore[return-value]
    if len(shapes) == 1:
        (shape,) = shapes.values()
        if len(shape) == 2 and shape[1] == 1:
            return "fusion"
    return None


def _build(path: Path, layers: dict[Kind, list[Layer]]) -> TimNet:
    convolutions, norms = layers["convolution"], layers["norm"]
    n_scales = len(norms) // 4
    found = tuple(len(layers[kind]) for kind in ("convolution", "norm", "fusion", "dense"))
    if not n_scales or found != (2 + 4 * n_scales, 4 * n_scales, 1, 1):
        raise KerasWeightsError(
            f"{path}: {found[0]} convolutions, {found[1]} batch norms, {found[2]} fusion layers "
            f"and {found[3]} dense layers, expected 2 + 4n, 4n, 1 and 1 with n depths (34, 32, 1, "
            f"1 for the usual 8): another network, or an incomplete file; {_HELP}"
        )
    head, fusion = layers["dense"][0], layers["fusion"][0]
    n_classes = head["kernel"].shape[1]
    if not 2 <= n_classes <= _MAX_CLASSES:
        raise KerasWeightsError(
            f"{path}: the classifier has {n_classes} classes, expected 2 to {_MAX_CLASSES}"
        )

    def take(what: str, dataset: Any, *shape: int) -> NDArray[np.float32]:
        if dataset.shape != shape or dataset.dtype.kind != "f":
            raise KerasWeightsError(
                f"{path}: {what} is {dataset.dtype} of shape {dataset.shape}, expected float32 of "
                f"shape {shape}"
            )
        values = np.asarray(dataset[()], dtype=np.float32)
        if not np.isfinite(values).all():
            raise KerasWeightsError(f"{path}: {what} holds NaN or infinite values: get it again")
        return values

    state: dict[str, Tensor] = {}

    def put(name: str, values: NDArray[np.float32]) -> None:
        state[name] = torch.from_numpy(np.ascontiguousarray(values))

    for index, (name, n_taps) in enumerate(_convolution_names(n_scales)):
        layer, what = convolutions[index], f"convolution {index + 1} of {len(convolutions)}"
        kernel = take(f"the kernel of {what}", layer["kernel"], n_taps, _WIDTH, _WIDTH)
        put(f"{name}.weight", kernel.transpose(2, 1, 0))
        put(f"{name}.bias", take(f"the bias of {what}", layer["bias"], _WIDTH))
    for index, name in enumerate(_norm_names(n_scales)):
        what = f"batch norm {index + 1} of {len(norms)}"
        for theirs, ours in _NORM.items():
            values = take(f"{theirs} of {what}", norms[index][theirs], _WIDTH)
            if theirs == "moving_variance" and (values < 0).any():
                raise KerasWeightsError(f"{path}: {theirs} of {what} is negative: get it again")
            put(f"{name}.{ours}", values)
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)  # Keras does not count
    (fusion_weight,) = fusion.values()
    put("scale_weight", take("the weight of the depths", fusion_weight, n_scales, 1)[:, 0])
    put("head.weight", take("the classifier's kernel", head["kernel"], _WIDTH, n_classes).T)
    put("head.bias", take("the classifier's bias", head["bias"], n_classes))
    model = TimNet(TimNetConfig(n_classes=n_classes, n_scales=n_scales))
    model.load_state_dict(state)
    return model.eval()


def _convolution_names(n_scales: int) -> Iterator[tuple[str, int]]:
    """Our names of the convolutions, and their taps, in the order in which Keras made them."""
    for chain in ("forward_chain", "backward_chain"):
        yield f"{chain}.entry", 1
    for half in _half_names(n_scales):
        yield f"{half}.conv", 2


def _norm_names(n_scales: int) -> Iterator[str]:
    for half in _half_names(n_scales):
        yield f"{half}.norm"


def _half_names(n_scales: int) -> Iterator[str]:
    for depth in range(n_scales):
        for chain in ("forward_chain", "backward_chain"):
            for half in ("first", "second"):
                yield f"{chain}.blocks.{depth}.{half}"
