"""What the neck of a detector in memory computes for an image, to be drawn."""
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.modeling.decoders import drfpn
from official_ext.serving import detectors


class Offsets(NamedTuple):
  """Where a spatial refinement block of DRFPN samples the next coarser level.

  Attributes:
    starts: `[height, width, 2]`, where each position of the level lies, row and column in pixels
      of the image; it is sampled there if its offset is 0.
    ends: the same with the offsets added.
  """
  starts: np.ndarray
  ends: np.ndarray


def levels(detector: detectors.InMemoryDetector, image: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the levels of a neck, without what lies in the padding of the image.

  Args:
    detector: a detector with a neck; its solver, gates and blocks run as at inference.
    image: uint8 `[height, width, 3]`.

  Returns:
    Level -> `[map_height, map_width, channels]`, finest level first.
  """
  model, inputs, info = _inputs(detector, image)
  features = model.decoder(model.backbone(inputs, training=False), training=False)
  size = info[0] * info[2]  # of the image in the network's input
  return {level: _cropped(features[level][0], size / 2**int(level))
          for level in sorted(features, key=int)}


def offsets(detector: detectors.InMemoryDetector, image: np.ndarray) -> dict[str, Offsets]:
  """Returns where DRFPN's top-down path samples.

  Args:
    detector: a detector with any neck.
    image: uint8 `[height, width, 3]`.

  Returns:
    Level -> its offsets, without positions in the padding of the image; empty for other necks,
    and for a DRFPN without offsets.
  """
  model, inputs, info = _inputs(detector, image)
  if not isinstance(model.decoder, drfpn.DRFPN):
    return {}
  found = model.decoder.sampling_positions(model.backbone(inputs, training=False))
  result = {}
  for level, positions in found.items():
    # Positions count the pixels of the coarser level, whose first one is centered half a stride
    # from the edge.
    stride = 2.0 ** (int(level) + 1)
    starts, ends = ((_cropped(value, info[0] * info[2] / 2**int(level)) + 0.5) * stride / info[2]
                    for value in (positions.aligned, positions.sampled[0]))
    result[level] = Offsets(starts, ends)
  return result


def _inputs(detector: detectors.InMemoryDetector, image: np.ndarray
            ) -> tuple[Any, tf.Tensor, np.ndarray]:
  """Returns the model, its input and the image info, `[4, 2]`."""
  inputs, info = detector.module.network_inputs([image])
  return detector.module.model, inputs, info[0].numpy()


def _cropped(values: tf.Tensor, size: np.ndarray) -> np.ndarray:
  """Returns the first rows and columns of a map, as many as `size` has begun."""
  height, width = np.maximum(1, np.ceil(size - 1e-3)).astype(int)
  return np.asarray(values)[:height, :width]
