"""The checks that every layer and decoder passes; it names no component.

A test calls `run_decoder_checks` with a `Component`; a decoder that routes has its checks in
tests/modeling/routed_networks_test.py as well.  `check_other_process` starts a process and is slow.
Numbers against the paper's equations are the business of each component's own test.
"""
from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import pyramid
from component import Component
from component import same
import spies

TESTS = pathlib.Path(__file__).resolve().parent


def check_config(part: Component, tmp_path) -> None:
  """Plain JSON, complete, and equal after a round trip."""
  del tmp_path
  layer = part.make()
  config = layer.get_config()
  assert json.loads(json.dumps(config)) == config
  again = part.cls.from_config(config)
  assert again.get_config() == config
  arguments = set()
  for cls in part.cls.__mro__:
    if cls is tf_keras.layers.Layer:
      break
    code = getattr(cls.__init__, '__code__', None)
    arguments |= set(code.co_varnames[1:code.co_argcount]) if code else set()
  assert arguments <= set(config), arguments - set(config)
  for option, value in part.options.items():
    if not isinstance(value, Mapping):
      assert config[option] == value, option


def check_saving(part: Component, tmp_path) -> None:
  """`.keras` keeps the numbers; another process is asked by `check_other_process`."""
  model = part.model(part.make())
  path = str(tmp_path / 'model.keras')
  model.save(path)
  inputs = part.inputs()
  same(tf_keras.models.load_model(path)(inputs), model(inputs))


def check_call_modes(part: Component, tmp_path) -> None:
  """Symbolic, eager and traced calls agree, and repeat bit for bit."""
  del tmp_path
  layer, inputs = part.make(), part.inputs()
  eager = layer(inputs, training=False)
  same(eager, layer(inputs, training=False))
  same(eager, layer(inputs))
  same(eager, part.model(layer)(inputs), 1e-5, 1e-6)
  traced = tf.function(lambda x: layer(x, training=False), autograph=False)
  same(eager, traced(inputs), 1e-5, 1e-6)
  same(traced(inputs), traced(inputs))


def check_sizes(part: Component, tmp_path) -> None:
  """Any batch and image size, in one trace."""
  del tmp_path
  layer = part.make()
  traces = []

  @tf.function(autograph=False, input_signature=[{
      level: tf.TensorSpec([None, None, None, depth]) for level, depth in part.channels.items()}])
  def traced(inputs):
    traces.append(1)
    return layer(inputs, training=False)

  for size, batch in [((32, 40), 1), ((75, 101), 2), ((8, 8), 5), ((75, 101), 0)]:
    inputs = part.inputs(size, batch)
    outputs = traced(inputs)
    same(outputs, layer(inputs, training=False), 1e-5)
    assert sorted(outputs) == sorted(part.output_levels)
    for level, output in outputs.items():
      assert output.shape == (batch, *_size_of(level, part, inputs), part.options['num_filters'])
  assert len(traces) == 1


def _size_of(level, part, inputs) -> tuple[int, ...]:
  if level in inputs:
    return inputs[level].shape[1:3]
  coarsest = max(part.channels, key=int)
  halvings = int(level) - int(coarsest)
  return tuple(-(-size // 2**halvings) for size in inputs[coarsest].shape[1:3])


def _count(variables) -> int:
  return sum(int(np.prod(v.shape)) for v in variables)


def check_weights(part: Component, tmp_path) -> None:
  """Exact number of weights, and names that do not move."""
  del tmp_path
  layer = part.make()
  assert _count(layer.trainable_variables) == part.trainable
  assert _count(layer.non_trainable_variables) == part.non_trainable
  names = [variable.name for variable in layer.variables]
  assert len(set(names)) == len(names), names
  assert not [name for name in names if not re.fullmatch(part.names, name)]


def _loss(outputs) -> tf.Tensor:
  return tf.add_n([tf.reduce_mean(tf.square(tf.cast(x, tf.float32))) for x in outputs.values()])


def check_training_step(part: Component, tmp_path) -> None:
  """Every weight has a finite gradient and moves."""
  del tmp_path
  _train_one_step(part, part.make(norm='none'), part.idle)
  # Batch norm takes away what a bias before it adds.
  _train_one_step(part, part.make(norm='batch_norm'), rf'{part.idle}|(output|coarser)(_\d)?/bias')


def _train_one_step(part: Component, layer: tf_keras.layers.Layer, idle: str) -> None:
  # A loss that batch norm does not hold at the same value whatever the weights.
  target = {level: tf.random.stateless_normal(x.shape, [1, 2])
            for level, x in layer(part.inputs(batch=5)).items()}
  with tf.GradientTape() as tape:
    outputs = layer(part.inputs(batch=5), training=True)
    loss = _loss({level: outputs[level] - target[level] for level in outputs})
  gradients = tape.gradient(loss, layer.trainable_variables)
  before = [variable.numpy() for variable in layer.trainable_variables]
  assert all(gradient is not None for gradient in gradients)
  tf_keras.optimizers.SGD(0.1).apply_gradients(zip(gradients, layer.trainable_variables))
  for variable, old in zip(layer.trainable_variables, before):
    assert np.all(np.isfinite(variable)), variable.name
    assert re.search(idle, variable.name) or np.any(variable.numpy() != old), variable.name


def check_precision(part: Component, tmp_path) -> None:
  """The policy decides the dtypes of outputs and variables; numbers stay near float32's."""
  del tmp_path
  expected = part.make()(part.inputs(size=(16, 16)), training=False)
  for policy, output, variable, tolerance in [
      ('mixed_float16', tf.float16, tf.float32, 0.02),
      ('mixed_bfloat16', tf.bfloat16, tf.float32, 0.15),
      ('float64', tf.float64, tf.float64, 1e-5)]:
    layer = part.make(dtype=policy)
    for training in (False, True):
      outputs = layer(part.inputs(size=(16, 16)), training=training)
      assert {x.dtype for x in outputs.values()} == {output}
      assert all(np.all(np.isfinite(tf.cast(x, tf.float32))) for x in outputs.values())
    kernels = {v.dtype for v in layer.trainable_variables if 'gate' not in v.name}
    assert kernels == {variable}
    spies.randomize(layer)
    same(layer(part.inputs(size=(16, 16)), training=False), expected, tolerance, tolerance)


def check_wrong_input(part: Component, tmp_path) -> None:
  """A ValueError names what is wrong."""
  del tmp_path
  layer, inputs = part.make(), part.inputs()
  levels = sorted(part.channels)
  missing = {level: x for level, x in inputs.items() if level != levels[0]}
  with pytest.raises(ValueError, match=f'needs level .{levels[0]}'):
    layer(missing)
  with pytest.raises(ValueError, match='batch, height, width, channels'):
    layer({**inputs, levels[0]: inputs[levels[0]][0]})
  wrong = {'norm': 'group', 'min_level': 9, **part.wrong}
  if isinstance(layer, pyramid.PyramidDecoder):
    wrong['coarse_levels'] = 'bilinear'
  for option, value in wrong.items():
    name, value = value if isinstance(value, tuple) else (option, value)
    with pytest.raises(ValueError, match=re.escape(name)):
      part.cls(**{**part.options, option: value})


def check_freezing(part: Component, tmp_path) -> None:
  """`trainable = False` freezes moving averages; every kernel is regularized once."""
  del tmp_path
  layer, inputs = part.make(norm='batch_norm'), part.inputs()
  moving = [v for v in layer.variables if 'moving' in v.name]
  assert moving
  before = [v.numpy() for v in moving]
  layer.trainable = False
  layer(inputs, training=True)
  assert not layer.trainable_variables
  assert all(np.array_equal(v, old) for v, old in zip(moving, before))
  layer.trainable = True
  layer(inputs, training=True)
  assert all(not np.array_equal(v, old) for v, old in zip(moving, before))

  layer = part.make(kernel_regularizer={'class_name': 'L2', 'config': {'l2': 0.01}})
  layer(inputs, training=True)
  kernels = [v for v in layer.trainable_variables if 'kernel' in v.name]
  assert len(layer.losses) == len(kernels)
  np.testing.assert_allclose(
      tf.add_n(layer.losses), 0.01 * sum(np.sum(v.numpy()**2) for v in kernels), 1e-5)


DECODER_CHECKS = (
    check_config, check_saving, check_call_modes, check_sizes, check_weights, check_training_step,
    check_precision, check_wrong_input, check_freezing)


def run_decoder_checks(part: Component, tmp_path: pathlib.Path) -> None:
  """Runs `DECODER_CHECKS` on a decoder."""
  for check in DECODER_CHECKS:
    check(part, tmp_path)
  layer = part.make()
  assert sorted(layer.output_specs) == sorted(part.output_levels)
  for level, output in layer(part.inputs()).items():
    assert layer.output_specs[level].is_compatible_with(output.shape)


def run_layer_checks(layer_class: type, options: Mapping[str, Any], inputs: Any,
                     trainable: int, tolerance: float = 1e-6) -> None:
  """Runs the checks of config, calls, weights and learning on a layer that is no decoder.

  Args:
    layer_class: the class.
    options: arguments, JSON types only.
    inputs: what the layer is called with, of batch 2 or more.
    trainable: number of trainable weights (scalars).
    tolerance: between eager and traced calls.
  """
  layer = layer_class(**options)

  def flat(outputs):
    return [np.asarray(x) for x in tf.nest.flatten(outputs)]

  eager = flat(layer(inputs))
  config = layer.get_config()
  again = layer_class.from_config(json.loads(json.dumps(config)))
  assert again.get_config() == config
  again(inputs)
  again.set_weights(layer.get_weights())
  for first, second in zip(eager, flat(again(inputs))):
    np.testing.assert_array_equal(first, second)
  traced = tf.function(layer, autograph=False)
  for first, second in zip(eager, flat(traced(inputs))):
    np.testing.assert_allclose(first, second, tolerance, tolerance)
  assert _count(layer.trainable_variables) == trainable
  spies.randomize(layer)
  with tf.GradientTape() as tape:
    loss = tf.add_n([tf.reduce_mean(tf.square(x)) for x in tf.nest.flatten(layer(inputs))])
  for variable, gradient in zip(
      layer.trainable_variables, tape.gradient(loss, layer.trainable_variables)):
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0), variable.name


def check_other_process(parts: Sequence[Component], trained: Sequence[Mapping[str, Any]],
                        tmp_path: pathlib.Path) -> None:
  """Another process loads the same numbers, and trains alike on two replicas and one device.

  It imports only `registry_imports` before it loads.  One step of two replicas must equal one of
  a single device with the joint batch.

  Args:
    parts: what is saved here and loaded there.
    trained: per component `cls` (`module:Class`), `options` and `channels`; gates, if any,
      with biases that noise cannot overcome, no batch norm.
    tmp_path: an empty folder.
  """
  for number, part in enumerate(parts):
    model, inputs = part.model(part.make()), part.inputs()
    model.save(tmp_path / f'{number}.keras')
    np.savez(tmp_path / f'{number}_inputs.npz', **inputs)
    np.savez(tmp_path / f'{number}_outputs.npz', **_float32(model(inputs)))
  report = json.loads(_run('loads_and_replicas.py', str(tmp_path), json.dumps(trained)))
  assert report['loaded'] == len(parts)
  assert len(report['replicas']) == len(trained)
  for row in report['replicas']:
    assert row['replicas'] == 2
    assert row['moved'] > 0
    assert row['loss'][0] == pytest.approx(row['loss'][1], rel=1e-5)
    assert row['difference'] < 1e-6 * row['moved']


def _float32(pyramid: Mapping[str, Any]) -> dict[str, np.ndarray]:
  return {level: tf.cast(x, tf.float32).numpy() for level, x in pyramid.items()}


def _run(script: str, *arguments: str) -> str:
  """Runs a script of tests/processes and returns its last line."""
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(TESTS), str(TESTS.parent)])}
  done = subprocess.run(
      [sys.executable, TESTS / 'processes' / script, *arguments], env=environment,
      capture_output=True, text=True, timeout=900, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout.strip().splitlines()[-1]
