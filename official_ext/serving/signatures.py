"""The signatures of an export: one of images, others with a threshold of gates or a budget too.

A detector with gates or a solver is written as one function of images and those of threshold and
budget that it takes.  All signatures call it, so that the SavedModel holds the network once.
"""
from collections.abc import Callable, Mapping, Sequence
import contextlib
import inspect
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.serving import detection
from official_ext.serving.engines import inputs as inputs_lib
from official_ext.serving import input_types

DEFAULT = 'serving_default'
WITH_GATE_THRESHOLD = 'with_gate_threshold'
WITH_BUDGET = 'with_budget'

# Input type -> the method of an export module.
_METHODS = {'image_tensor': 'inference_from_image_tensors',
            'image_bytes': 'inference_from_image_bytes', 'tf_example': 'inference_from_tf_example'}


def widest(functions: Mapping[str, Any]) -> str | None:
  """Returns the name of the signature that other engines get.

  A network that takes a budget keeps the budget alone: no signature takes a threshold beside it,
  and both shut the same gates.

  Args:
    functions: the signatures of a SavedModel by name.

  Returns:
    The last of `DEFAULT`, `WITH_GATE_THRESHOLD` and `WITH_BUDGET` that there is; None without any.
  """
  found = [name for name in (DEFAULT, WITH_GATE_THRESHOLD, WITH_BUDGET) if name in functions]
  return found[-1] if found else None


def with_names(function: Callable[..., Mapping[str, tf.Tensor]], specs: Sequence[tf.TensorSpec]
               ) -> Any:
  """Returns a concrete function whose arguments have the names of their specifications.

  Args:
    function: maps tensors to outputs by name.
    specs: of these tensors, named.
  """

  def run(*values):
    return function(*values)

  # TensorFlow names arguments by this, not by the specifications.
  run.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
      inspect.Parameter(spec.name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for spec in specs])
  return tf.function(run, specs).get_concrete_function()


def network_function(module: Any, input_type: str) -> Any:
  """Returns the concrete function that an export holds.

  Args:
    module: the export module of a detector.
    input_type: one of `input_types.INPUT_TYPES`.

  Returns:
    A function of images, as the input type says; for gates that have a threshold also of this, a
    float32 scalar as `routing.shutting_gates` takes it; and for gates or a solver that take a
    budget also of this, float32, a scalar or one for each image, as `routing.spending` takes it.
  """
  more = [tf.TensorSpec([], tf.float32, 'gate_threshold')] * routed.has_gate_threshold(module.model)
  more += [tf.TensorSpec(None, tf.float32, 'budget')] * routed.has_budget_input(module.model)
  serve = getattr(module, _METHODS[input_type]).python_function
  batch = module.description['batch_size']
  images = (tf.TensorSpec([batch, None, None, 3], tf.uint8, 'inputs')
            if input_type == 'image_tensor' else tf.TensorSpec([batch], tf.string, 'inputs'))

  # A batch of no files becomes one of this file; `serve` does the same with images.
  example = (input_types.encode(np.zeros([1, 1, 1, 3], np.uint8), input_type)
             if batch is None and input_type != 'image_tensor' else None)

  def run(inputs, *values):
    given = {spec.name: value for spec, value in zip(more, values)}
    count, missing = tf.shape(inputs)[0], detection.missing_images(inputs)
    with contextlib.ExitStack() as stack:
      if 'gate_threshold' in given:
        stack.enter_context(routing.shutting_gates(given['gate_threshold']))
      if 'budget' in given:
        # Another number of budgets than one, or one for each image, is an error here.
        budgets = tf.broadcast_to(tf.reshape(given['budget'], [-1]), [count])
        stack.enter_context(routing.spending(tf.pad(budgets, [[0, missing]])))
      if example is None:
        return serve(inputs)
      outputs = serve(tf.concat([inputs, tf.repeat(example, missing)], 0))
      return {name: value[:count] for name, value in outputs.items()}

  return with_names(run, [images, *more])


def call(function: Any, inputs: Any, **values: float | tf.Tensor) -> Mapping[str, tf.Tensor]:
  """Calls what `network_function` returned.

  Args:
    function: the concrete function.
    inputs: the images.
    **values: `gate_threshold` and `budget`; those that are not given change nothing.
  """
  names = [spec.name for spec in function.structured_input_signature[0][1:]]
  more = [tf.convert_to_tensor(values.get(name, inputs_lib.NEUTRAL[name]), tf.float32)
          for name in names]
  return function(inputs, *more)


def signatures(function: Any, budget: float = inputs_lib.NEUTRAL['budget']) -> dict[str, Any]:
  """Returns the signatures of an export by name.

  Args:
    function: what `network_function` returned, or its frozen form.
    budget: in [0, 1], of the signatures that take none; networks without a budget do not use it.
  """
  images, *more = function.structured_input_signature[0]
  found = {DEFAULT: function}
  if more:
    found[DEFAULT] = with_names(lambda inputs: call(function, inputs, budget=budget), [images])
  for spec in more:
    # The network's own function has this one input beside the images, or others too.
    found[f'with_{spec.name}'] = function if len(more) == 1 else with_names(
        lambda inputs, value, name=spec.name: call(
            function, inputs, **{'budget': budget, name: value}),
        [images, spec])
  return found
