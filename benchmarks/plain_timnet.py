"""TIM-Net as a textbook PyTorch port would be: the yardstick of timnet_cohort.py.

Layer by layer what the paper and its Keras defaults say (arXiv 2211.08233): ``nn.Conv1d`` on padded
input, batch norm, ReLU, dropout of whole channels, the backward direction by a flip, Adam, and a
loop over a ``DataLoader``. No attention is paid to speed, and none to lengths: every frame counts,
as in the published setting. Numbers agree with ``serkit.models.timnet`` given the same weights.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["PlainTimNet", "PlainTraining"]


class Block(nn.Module):
    """Two causal dilated convolutions that gate the block's input."""

    def __init__(self, n_channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilation = dilation
        self.conv1 = nn.Conv1d(n_channels, n_channels, 2, dilation=dilation)
        self.norm1 = nn.BatchNorm1d(n_channels, eps=1e-3, momentum=0.01)
        self.conv2 = nn.Conv1d(n_channels, n_channels, 2, dilation=dilation)
        self.norm2 = nn.BatchNorm1d(n_channels, eps=1e-3, momentum=0.01)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, n_channels, n_frames)`` to the same shape."""
        h = self.conv1(F.pad(x, (self.dilation, 0)))
        h = self.dropout(F.relu(self.norm1(h)))
        h = self.conv2(F.pad(h, (self.dilation, 0)))
        h = self.dropout(F.relu(self.norm2(h)))
        return x * torch.sigmoid(h)


class PlainTimNet(nn.Module):
    """The network with the authors' settings."""

    def __init__(
        self, n_features: int = 39, n_classes: int = 7, n_blocks: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__()
        dilations = [2**depth for depth in range(n_blocks)]
        self.entry_forward = nn.Conv1d(n_features, n_features, 1)
        self.entry_backward = nn.Conv1d(n_features, n_features, 1)
        self.forward_blocks = nn.ModuleList(Block(n_features, d, dropout) for d in dilations)
        self.backward_blocks = nn.ModuleList(Block(n_features, d, dropout) for d in dilations)
        self.weights = nn.Parameter(torch.empty(n_blocks).uniform_(-0.05, 0.05))
        self.classifier = nn.Linear(n_features, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, n_frames, n_features)`` to logits, ``(batch, n_classes)``."""
        x = features.transpose(1, 2)
        ahead, back = self.entry_forward(x), self.entry_backward(x.flip(-1))
        pooled = []
        for forward_block, backward_block in zip(
            self.forward_blocks, self.backward_blocks, strict=True
        ):
            ahead, back = forward_block(ahead), backward_block(back)
            pooled.append((ahead + back).mean(-1))
        logits: Tensor = self.classifier(torch.stack(pooled, dim=-1) @ self.weights)
        return logits


class PlainTraining:
    """A model, its optimiser and its data; :meth:`epochs` trains on."""

    def __init__(self, features: Tensor, truth: Tensor, *, batch_size: int, device: str) -> None:
        self.device = torch.device(device)
        self.model = PlainTimNet(features.shape[2], int(truth.max()) + 1).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=1e-3, betas=(0.93, 0.98), eps=1e-8
        )
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.loader = DataLoader(
            TensorDataset(features, truth), batch_size=batch_size, shuffle=True
        )

    def epochs(self, n: int, *, n_threads: int) -> list[float]:
        """Train and return the seconds of each epoch."""
        torch.set_num_threads(n_threads)
        self.model.train()
        seconds = []
        for _ in range(n):
            began, total = time.perf_counter(), 0.0
            for features, truth in self.loader:
                features, truth = features.to(self.device), truth.to(self.device)
                self.optimizer.zero_grad()
                loss = self.loss(self.model(features), truth)
                loss.backward()
                self.optimizer.step()
                total += loss.item() * len(truth)
            seconds.append(time.perf_counter() - began)
        return seconds
