"""Describes a component to the checks, which themselves name none."""
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

import reference
import spies


@dataclasses.dataclass
class Component:
  """What the checks need to know of a layer that maps levels to levels.

  Attributes:
    cls: the class.
    options: arguments, JSON types only.
    channels: level -> channels of its inputs.
    trainable: number of trainable weights (scalars) with these options.
    non_trainable: the same, of weights that are not trained.
    names: a regular expression that every variable's name matches.
    idle: a regular expression of variables that one training step may leave alone.
    wrong: option -> a value that must be refused with the option named.
    output_levels: levels of the result.
  """
  cls: type
  options: dict[str, Any]
  channels: Mapping[str, int]
  trainable: int
  non_trainable: int
  names: str
  output_levels: Sequence[str]
  idle: str = r'(?!)'
  wrong: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def inputs(self, size=(32, 40), batch=2, **options):
    return reference.pyramid_inputs(self.channels, size, batch, **options)

  def make(self, seed=0, **options) -> tf_keras.layers.Layer:
    """Makes the layer with variables that differ from each other."""
    layer = self.cls(**{'name': 'part', **self.options, **options})
    layer(self.inputs(batch=1))
    spies.randomize(layer, seed)
    return layer

  def model(self, layer) -> tf_keras.Model:
    """Wraps the layer in a functional model of any batch and image size."""
    inputs = {level: tf_keras.Input([None, None, depth], name=f'level_{level}')
              for level, depth in self.channels.items()}
    return tf_keras.Model(inputs, layer(inputs))


def same(first: Mapping[str, Any], second: Mapping[str, Any], tolerance: float = 0.0,
         relative: float = 0.0) -> None:
  """Asserts that two pyramids are equal."""
  assert sorted(first) == sorted(second)
  for level in first:
    np.testing.assert_allclose(
        np.asarray(tf.cast(first[level], tf.float64)), np.asarray(
            tf.cast(second[level], tf.float64)), relative, tolerance, err_msg=f'level {level}')
