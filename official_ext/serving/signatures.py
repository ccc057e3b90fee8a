"""The signatures of an export: one of images, and one that takes a threshold of gates as well.

A detector with gates is written as one function of images and threshold.  Both signatures call it,
so that the SavedModel holds the network once.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from official_ext.modeling.layers import routed
from official_ext.ops import routing

DEFAULT = 'serving_default'
WITH_GATE_THRESHOLD = 'with_gate_threshold'


def widest(functions: Mapping[str, Any]) -> str | None:
  """Returns the name of the signature with the most inputs, which other engines get.

  Args:
    functions: the signatures of a SavedModel by name.

  Returns:
    One of `DEFAULT` and `WITH_GATE_THRESHOLD`; None if the SavedModel has neither.
  """
  found = [name for name in (DEFAULT, WITH_GATE_THRESHOLD) if name in functions]
  return found[-1] if found else None


def with_names(function: Callable[..., Mapping[str, tf.Tensor]], specs: Sequence[tf.TensorSpec]
               ) -> Any:
  """Returns a concrete function of `inputs`, the images, and perhaps `gate_threshold`.

  Args:
    function: maps one or two tensors to outputs by name.
    specs: of these tensors.
  """
  named = [tf.TensorSpec(spec.shape, spec.dtype, name)
           for spec, name in zip(specs, ('inputs', 'gate_threshold'))]
  if len(named) == 1:
    return tf.function(lambda inputs: function(inputs), named).get_concrete_function()
  return tf.function(lambda inputs, gate_threshold: function(inputs, gate_threshold),
                     named).get_concrete_function()


def network_function(module: Any, input_type: str) -> Any:
  """Returns the concrete function that an export holds.

  Args:
    module: the export module of a detector.
    input_type: one of `input_types.INPUT_TYPES`.

  Returns:
    A function of images, as the input type says, and for a model whose gates have a threshold of
    this threshold too, float32, as `routing.shutting_gates` takes it.
  """
  if not routed.has_gate_threshold(module.model):
    return module.get_inference_signatures({input_type: DEFAULT})[DEFAULT]
  serve = {'image_tensor': module.inference_from_image_tensors,
           'image_bytes': module.inference_from_image_bytes,
           'tf_example': module.inference_from_tf_example}[input_type].python_function
  batch = module.description['batch_size']
  images = (tf.TensorSpec([batch, None, None, 3], tf.uint8) if input_type == 'image_tensor' else
            tf.TensorSpec([batch], tf.string))

  def run(inputs, gate_threshold):
    with routing.shutting_gates(gate_threshold):
      return serve(inputs)

  return with_names(run, [images, tf.TensorSpec([], tf.float32)])


def signatures(function: Any) -> dict[str, Any]:
  """Returns the signatures of an export by name.

  Args:
    function: what `network_function` returned, or its frozen form.
  """
  images, *threshold = function.structured_input_signature[0]
  if not threshold:
    return {DEFAULT: function}
  own_gates = with_names(lambda inputs: function(inputs, tf.constant(0.0)), [images])
  return {DEFAULT: own_gates, WITH_GATE_THRESHOLD: function}
