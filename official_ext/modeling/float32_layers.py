"""Layers of Model Garden that compute boxes and scores, in float32 under any precision policy.

Half precision has too few digits for boxes: above 256 pixels bfloat16 knows only every second
pixel, and Model Garden's batched suppression does not take it at all.
"""
from typing import Any, TypeVar

from official.vision.modeling import maskrcnn_model
from official.vision.modeling import retinanet_model
import tensorflow as tf, tf_keras

Layer = TypeVar('Layer', bound=tf_keras.layers.Layer)


def to_float32(values: Any) -> Any:
  """Returns a nest of tensors and other values with all half-precision floats as float32."""

  def cast(value):
    is_half = tf.is_tensor(value) and value.dtype in (tf.float16, tf.bfloat16)
    return tf.cast(value, tf.float32) if is_half else value

  return tf.nest.map_structure(cast, values)


class _Float32(tf_keras.layers.Layer):
  """First base of a layer that gets and computes float32."""

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = to_float32((args, kwargs))
    return super().__call__(*args, **kwargs)


def _in_float32(layer: Layer) -> Layer:
  """Returns a layer without variables, made again so that it computes in float32."""
  kind: Any = type(f'Float32{type(layer).__name__}', (_Float32, type(layer)), {})
  return kind.from_config({**layer.get_config(), 'dtype': 'float32'})


def _is_mixed() -> bool:
  return tf_keras.mixed_precision.global_policy().compute_dtype != 'float32'


def float32_retinanet(model: retinanet_model.RetinaNetModel) -> retinanet_model.RetinaNetModel:
  """Returns a RetinaNet that makes detections in float32.

  Args:
    model: the model that Model Garden builds.

  Returns:
    The model itself under a float32 policy, else one of the same backbone, decoder and head,
    before its first call.
  """
  if not _is_mixed():
    return model
  generator = _in_float32(model.detection_generator)
  return retinanet_model.RetinaNetModel(
      **{**model.get_config(), 'detection_generator': generator})


def float32_maskrcnn(model: maskrcnn_model.MaskRCNNModel) -> maskrcnn_model.MaskRCNNModel:
  """Returns a two-stage detector that proposes, samples and detects boxes in float32."""
  if _is_mixed():
    model.roi_generator = _in_float32(model.roi_generator)
    model.roi_sampler = [_in_float32(sampler) for sampler in model.roi_sampler]
    model.detection_generator = _in_float32(model.detection_generator)
    if model.mask_sampler:
      model.mask_sampler = _in_float32(model.mask_sampler)
  return model
