"""A temporal-aware block for training on a CPU: the same numbers, less memory traffic.

:class:`serkit.models.timnet.TemporalAwareBlock` is the definition; this is its training step
written for the hardware, and a test holds the two together. A network this narrow is bound by
memory as much as by arithmetic, and a chain of framework operations writes every map it passes
through. Here the maps are kept as (channel, frame x utterance) matrices, in which

* a causal dilated two-tap convolution is two matrix products, the second on the columns that many
  frames earlier (no padding, no copies);
* batch statistics and elementwise steps run in place along contiguous rows;
* the backward pass is written out, keeps seven maps, and computes the gradients of both taps in
  one product.

``benchmarks/timnet_step.py`` measures what it gains.

The bias of a convolution that feeds batch norm cancels; it only moves the running mean, and its
gradient is zero instead of rounding noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["FusedBlock", "frames_first", "utterances_first"]

_sigmoid_backward = torch.ops.aten.sigmoid_backward
_threshold_backward = torch.ops.aten.threshold_backward


def frames_first(x: Tensor) -> Tensor:
    """Lay out ``(batch, n_channels, n_frames)`` as ``(n_channels, n_frames * batch)``."""
    return x.permute(1, 2, 0).reshape(x.shape[1], -1)


def utterances_first(x: Tensor, batch: int) -> Tensor:
    """View ``(n_channels, n_frames * batch)`` as ``(batch, n_channels, n_frames)``."""
    return x.view(x.shape[0], -1, batch).permute(2, 0, 1)


class FusedBlock(torch.autograd.Function):
    """``x * sigmoid(half(half(x)))`` in training mode, where half = conv, norm, ReLU, dropout.

    ``apply(x, weight1, gamma1, beta1, mask1, weight2, gamma2, beta2, mask2, shift, batch, eps)``

    x : (n_channels, n_frames * batch)
    weight : (n_channels, n_channels, 2), tap 0 on the older frame
    gamma, beta : (n_channels, 1)
    mask : (n_channels, batch), inverted-dropout factors, or ``None``
    shift : dilation * batch, the columns between the two taps

    Returns the output and, of each half, batch mean and population variance before the norm,
    ``(n_channels, 1)``, without the convolution's bias.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight1: Tensor,
        gamma1: Tensor,
        beta1: Tensor,
        mask1: Tensor | None,
        weight2: Tensor,
        gamma2: Tensor,
        beta2: Tensor,
        mask2: Tensor | None,
        shift: int,
        batch: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Run the block; see the class."""
        y1 = _conv(x, weight1, shift)
        mean1, var1, inverse1 = _centre(y1, eps)
        h1 = _activate(y1, inverse1 * gamma1, beta1, mask1, batch)
        y2 = _conv(h1, weight2, shift)
        mean2, var2, inverse2 = _centre(y2, eps)
        gate = _activate(y2, inverse2 * gamma2, beta2, mask2, batch).sigmoid_()
        ctx.save_for_backward(
            x, weight1, gamma1, mask1, y1, inverse1, h1, weight2, gamma2, mask2, y2, inverse2, gate
        )
        ctx.shift, ctx.batch = shift, batch
        ctx.mark_non_differentiable(mean1, var1, mean2, var2)
        return x * gate, mean1, var1, mean2, var2

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Propagate to the input, both kernels and both norms."""
        x, weight1, gamma1, mask1, y1, inverse1, h1, weight2, gamma2, mask2, y2, inverse2, gate = (
            ctx.saved_tensors
        )
        shift, batch = ctx.shift, ctx.batch
        # The gate is above one half exactly where its ReLU was open.
        grad = _threshold_backward(_sigmoid_backward(grad_output * x, gate), gate, 0.5)
        _drop(grad, mask2, batch)
        grad, grad_gamma2, grad_beta2 = _norm_backward(grad, y2, inverse2, gamma2)
        grad, grad_weight2 = _conv_backward(grad, h1, weight2, shift)
        grad = _threshold_backward(grad, h1, 0.0)
        _drop(grad, mask1, batch)
        grad, grad_gamma1, grad_beta1 = _norm_backward(grad, y1, inverse1, gamma1)
        grad, grad_weight1 = _conv_backward(grad, x, weight1, shift)
        grad.addcmul_(grad_output, gate)
        first = (grad_weight1, grad_gamma1, grad_beta1, None)
        second = (grad_weight2, grad_gamma2, grad_beta2, None)
        return (grad, *first, *second, None, None, None)


def _conv(x: Tensor, weight: Tensor, shift: int) -> Tensor:
    y = weight[:, :, 1] @ x
    if shift < x.shape[1]:
        y[:, shift:].addmm_(weight[:, :, 0], x[:, :-shift])
    return y


def _conv_backward(grad: Tensor, x: Tensor, weight: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    n_channels, n_columns = x.shape
    both = x.new_zeros(2 * n_channels, n_columns)  # what tap 0 saw, then what tap 1 saw
    both[n_channels:] = x
    grad_x = weight[:, :, 1].t() @ grad
    if shift < n_columns:
        both[:n_channels, shift:] = x[:, :-shift]
        grad_x[:, :-shift].addmm_(weight[:, :, 0].t(), grad[:, shift:])
    grad_weight = (grad @ both.t()).view(-1, 2, n_channels).transpose(1, 2)
    return grad_x, grad_weight


def _centre(y: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Subtract the batch mean in place; return mean, variance and 1 / standard deviation."""
    n = y.shape[1]
    mean = y.sum(1, keepdim=True) / n
    y.sub_(mean)
    var = torch.linalg.vector_norm(y, dim=1, keepdim=True).square_() / n
    return mean, var, torch.rsqrt(var + eps)


def _activate(y: Tensor, scale: Tensor, beta: Tensor, mask: Tensor | None, batch: int) -> Tensor:
    h = torch.mul(y, scale).add_(beta).relu_()
    _drop(h, mask, batch)
    return h


def _drop(x: Tensor, mask: Tensor | None, batch: int) -> None:
    if mask is not None:
        x.view(x.shape[0], -1, batch).mul_(mask.unsqueeze(1))


def _norm_backward(
    grad: Tensor, centred: Tensor, inverse: Tensor, gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = centred.shape[1]
    grad_beta = grad.sum(1, keepdim=True)
    grad_gamma = (grad * centred).sum(1, keepdim=True) * inverse
    scale = inverse * gamma
    grad_y = torch.mul(grad, scale).sub_(scale * grad_beta / n)
    grad_y.addcmul_(centred, -(scale * inverse * grad_gamma / n))
    return grad_y, grad_gamma, grad_beta
