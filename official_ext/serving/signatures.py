"""The signatures of an export: one of images, others with a threshold of gates or a budget too.

A detector with gates is written as one function of images, threshold and, if its gates take one,
budget.  All signatures call it, so that the SavedModel holds the network once.
"""
from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import tensorflow as tf

from official_ext.modeling.layers import routed
from official_ext.ops import routing

DEFAULT = 'serving_default'
WITH_GATE_THRESHOLD = 'with_gate_threshold'
WITH_BUDGET = 'with_budget'
# Inputs beside the images, in the order in which a network takes them, and what they are without.
_NEUTRAL = {'gate_threshold': 0.0, 'budget': 1.0}


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
  """Returns a concrete function of `inputs`, perhaps `gate_threshold`, and perhaps `budget`.

  Args:
    function: maps one to three tensors to outputs by name.
    specs: of these tensors; their names do not count.
  """
  named = [tf.TensorSpec(spec.shape, spec.dtype, name)
           for spec, name in zip(specs, ('inputs', *_NEUTRAL))]
  if len(named) == 1:
    return tf.function(lambda inputs: function(inputs), named).get_concrete_function()
  if len(named) == 2:
    return tf.function(lambda inputs, gate_threshold: function(inputs, gate_threshold),
                       named).get_concrete_function()
  return tf.function(lambda inputs, gate_threshold, budget: function(
      inputs, gate_threshold, budget), named).get_concrete_function()


def network_function(module: Any, input_type: str) -> Any:
  """Returns the concrete function that an export holds.

  Args:
    module: the export module of a detector.
    input_type: one of `input_types.INPUT_TYPES`.

  Returns:
    A function of images, as the input type says; for a model whose gates have a threshold or take
    a budget also of a threshold, a float32 scalar as `routing.shutting_gates` takes it; and for
    gates that take one also of a budget, float32, a scalar or one for each image, as
    `routing.spending` takes it.
  """
  takes_budget = routed.has_budget_input(module.model)
  if not takes_budget and not routed.has_gate_threshold(module.model):
    return module.get_inference_signatures({input_type: DEFAULT})[DEFAULT]
  serve = {'image_tensor': module.inference_from_image_tensors,
           'image_bytes': module.inference_from_image_bytes,
           'tf_example': module.inference_from_tf_example}[input_type].python_function
  batch = module.description['batch_size']
  images = (tf.TensorSpec([batch, None, None, 3], tf.uint8) if input_type == 'image_tensor' else
            tf.TensorSpec([batch], tf.string))

  def run(inputs, gate_threshold, budget=1.0):
    # Another number of budgets than one, or one for each image, is an error here.
    budgets = tf.broadcast_to(tf.reshape(budget, [-1]), tf.shape(inputs)[:1])
    with routing.shutting_gates(gate_threshold), routing.spending(budgets):
      return serve(inputs)

  more = [tf.TensorSpec([], tf.float32), *[tf.TensorSpec(None, tf.float32)] * takes_budget]
  return with_names(run, [images, *more])


def call(function: Any, inputs: Any, **values: float | tf.Tensor) -> Mapping[str, tf.Tensor]:
  """Calls what `network_function` returned.

  Args:
    function: the concrete function.
    inputs: the images.
    **values: `gate_threshold` and `budget`; those that are not given change nothing.
  """
  names = list(_NEUTRAL)[:len(function.structured_input_signature[0]) - 1]
  more = [tf.convert_to_tensor(values.get(name, _NEUTRAL[name]), tf.float32) for name in names]
  return function(inputs, *more)


def signatures(function: Any) -> dict[str, Any]:
  """Returns the signatures of an export by name.

  Args:
    function: what `network_function` returned, or its frozen form.
  """
  images, *more = function.structured_input_signature[0]
  if not more:
    return {DEFAULT: function}
  own_gates = with_names(functools.partial(call, function), [images])
  if len(more) == 1:
    return {DEFAULT: own_gates, WITH_GATE_THRESHOLD: function}
  with_threshold = with_names(
      lambda inputs, threshold: call(function, inputs, gate_threshold=threshold),
      [images, more[0]])
  with_budget = tf.function(
      lambda inputs, budget: call(function, inputs, budget=budget),
      [tf.TensorSpec(images.shape, images.dtype, 'inputs'),
       tf.TensorSpec(None, tf.float32, 'budget')]).get_concrete_function()
  return {DEFAULT: own_gates, WITH_GATE_THRESHOLD: with_threshold, WITH_BUDGET: with_budget}
