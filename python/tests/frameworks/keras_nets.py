"""VGG16s of Keras with their widths divided by 32, built with whichever Keras is given."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

BLOCKS = ((2, 2), (2, 4), (3, 8), (3, 16), (3, 16))


def trunk(keras: Any, size: tuple[int, int] = (96, 96), first: tuple[Any, ...] = ()) -> Any:
    """The convolutions, as `keras.applications.VGG16(include_top=False)` names them, after layers of the caller's."""
    layers = keras.layers
    inputs = x = keras.Input((*size, 3))
    for layer in first:
        x = layer(x)
    for block, (count, width) in enumerate(BLOCKS, 1):
        for number in range(1, count + 1):
            x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"block{block}_conv{number}")(x)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    return keras.Model(inputs, x, name="vgg16")


def seeded(model: Any, seed: int = 0) -> Any:
    """Fills a model with numbers of which each picture has another answer."""
    numbers = np.random.default_rng(seed)
    weights = []
    for value in model.get_weights():
        spread = np.sqrt(2 / np.prod(value.shape[:-1])) if value.ndim > 1 else 0.05
        weights.append((numbers.standard_normal(value.shape) * spread).astype(np.float32))
    model.set_weights(weights)
    return model


def flat(keras: Any, classes: int = 3, activation: str | None = "softmax", first: tuple[Any, ...] = ()) -> Any:
    """Flatten and Dense layers on the convolutions, as one functional model."""
    base = trunk(keras, first=first)
    x = keras.layers.Flatten()(base.output)
    x = keras.layers.Dense(8, activation="relu")(x)
    x = keras.layers.Dropout(0.5)(x)
    return seeded(keras.Model(base.input, keras.layers.Dense(classes, activation=activation)(x)))


def pooled(keras: Any, classes: int = 3, activation: str | None = "softmax") -> Any:
    """Global average pooling on a nested model of the convolutions, in a Sequential."""
    layers = [trunk(keras), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes, activation=activation)]
    return seeded(keras.Sequential(layers), 1)


def rescaled(keras: Any) -> Any:
    """A model that rescales its pictures itself."""
    return flat(keras, first=(keras.layers.Rescaling(1 / 255),))


def refused(keras: Any) -> dict[str, Callable[[], Any]]:
    """Models that the server refuses, by a part of its message."""
    layers = keras.layers

    def with_layer(layer: Any) -> Any:
        base = trunk(keras)
        x = layers.GlobalAveragePooling2D()(base.output)
        return keras.Model(base.input, layers.Dense(3, activation="softmax")(layer(x)))

    def branched() -> Any:
        base = trunk(keras)
        one, two = layers.GlobalAveragePooling2D()(base.output), layers.GlobalMaxPooling2D()(base.output)
        return keras.Model(base.input, layers.Dense(3, activation="softmax")(layers.Add()([one, two])))

    return {
        "LayerNormalization": lambda: with_layer(layers.LayerNormalization()),
        "UnitNormalization": lambda: with_layer(layers.UnitNormalization()),
        "Softsign": lambda: with_layer(layers.Activation("softsign")),
        "Add": branched,
    }
