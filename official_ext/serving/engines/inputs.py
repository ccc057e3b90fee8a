"""The inputs of an export: images, and for some networks scalars, which calls may leave out."""
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

# Scalar input, float32 -> the value at which the network is as the export has it.
NEUTRAL: Mapping[str, float] = {'gate_threshold': 0.0, 'budget': 1.0}


class Call(NamedTuple):
  """The arguments of one call of a detector.

  Attributes:
    images: uint8 `[batch, height, width, 3]`.
    scalars: values by name, of `NEUTRAL`.
  """
  images: np.ndarray
  scalars: Mapping[str, float] = {}


def scalars(names: Iterable[str]) -> list[str]:
  """Returns those of a model's inputs that are scalars."""
  return [name for name in NEUTRAL if name in names]


def with_scalars(specs: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the inputs of a signature by name, as engines get them: those of `NEUTRAL` are scalars.

  Args:
    specs: name -> specification in TensorFlow.  A budget has no rank there, because it may be one
      number for each image, which engines do not take.
  """
  import tensorflow as tf
  return {name: tf.TensorSpec([], tf.float32, name) if name in NEUTRAL else spec
          for name, spec in specs.items()}


def feed(names: Iterable[str], images: np.ndarray, values: Mapping[str, float]) -> dict[str, Any]:
  """Returns the inputs of a model by name; scalars that are not given are neutral.

  Args:
    names: of the model's inputs, one of them for images.
    images: uint8 `[batch, height, width, 3]`.
    values: of scalars by name; those that the model lacks are not used.
  """
  return {name: np.array(values.get(name, NEUTRAL[name]), np.float32) if name in NEUTRAL else images
          for name in names}
