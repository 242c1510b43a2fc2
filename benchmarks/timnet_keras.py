"""TIM-Net in Keras, trained as its authors train it; timnet_cohort.py runs it in an environment.

    python benchmarks/timnet_keras.py --utterances 480 --frames 188 --batch 64

Written for this benchmark against the published description (arXiv 2211.08233). Reads numbers of
epochs, one per line, trains that many epochs with ``model.fit`` on random features, and answers
each with one line of JSON: the seconds that every epoch took.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

N_FEATURES, N_CLASSES, N_BLOCKS, DROPOUT = 39, 7, 8, 0.1


class Fusion(layers.Layer):
    """Sum over depths, each with one free learned weight."""

    def build(self, shape):
        """Make the weights, ``(n_depths, 1)``."""
        self.depth_weight = self.add_weight(shape=(shape[-1], 1), initializer="uniform")

    def call(self, stacked):
        """Map ``(batch, n_filters, n_depths)`` to ``(batch, n_filters)``."""
        return keras.ops.squeeze(keras.ops.matmul(stacked, self.depth_weight), -1)


class Clock(keras.callbacks.Callback):
    """Keep the seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Keep what it says."""
        self.seconds.append(time.perf_counter() - self.began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=480)
    parser.add_argument("--frames", type=int, default=188)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    features = rng.standard_normal((arguments.utterances, arguments.frames, N_FEATURES))
    truth = keras.utils.to_categorical(rng.integers(0, N_CLASSES, arguments.utterances), N_CLASSES)
    model = build(arguments.frames)
    for line in sys.stdin:
        clock = Clock()
        model.fit(
            features.astype(np.float32),
            truth,
            batch_size=arguments.batch,
            epochs=int(line),
            shuffle=True,
            verbose=0,
            callbacks=[clock],
        )
        print(json.dumps(clock.seconds), flush=True)


def build(n_frames: int) -> keras.Model:
    """Make the network and its optimiser with the authors' settings."""
    features = keras.Input((n_frames, N_FEATURES))
    ahead = layers.Conv1D(N_FEATURES, 1)(features)
    back = layers.Conv1D(N_FEATURES, 1)(keras.ops.flip(features, axis=1))
    pooled = []
    for depth in range(N_BLOCKS):
        ahead, back = block(ahead, 2**depth), block(back, 2**depth)
        pooled.append(layers.GlobalAveragePooling1D()(layers.add([ahead, back])))
    fused = Fusion()(keras.ops.stack(pooled, axis=-1))
    scores = layers.Dense(N_CLASSES, activation="softmax")(fused)
    model = keras.Model(features, scores)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3, beta_1=0.93, beta_2=0.98, epsilon=1e-8),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        metrics=["accuracy"],
    )
    return model


def block(x, dilation: int):
    """Two causal dilated convolutions that gate the block's input."""
    h = x
    for _ in range(2):
        h = layers.Conv1D(N_FEATURES, 2, dilation_rate=dilation, padding="causal")(h)
        h = layers.BatchNormalization()(h)
        h = layers.SpatialDropout1D(DROPOUT)(layers.Activation("relu")(h))
    return layers.multiply([x, layers.Activation("sigmoid")(h)])


if __name__ == "__main__":
    main()
