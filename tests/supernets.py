"""Makes and runs small supernets whose images take different paths."""
from unittest import mock

import numpy as np
import tensorflow as tf

from official_ext.modeling.backbones import caddet
from official_ext.modeling.backbones.caddet import router
from official_ext.modeling.layers import routed
from official_ext.ops import routing
import caddet_reference
import spies

CHANNELS = (4, 8, 16)
SIZE = (64, 96)
ODD = (75, 101)


def images(size=SIZE, batch=6, seed=0):
  rng = np.random.default_rng(seed)
  # Contrast differs, because images that look alike to a router take the same paths.
  contrast = np.linspace(0.2, 3, batch)[:, None, None, None]
  return (contrast * rng.normal(size=[batch, *size, 3])).astype(np.float32)


def make(seed=0, size=(None, None), **options):
  """Returns a small supernet whose routers decide differently for different images."""
  layer = caddet.CADDet(**{
      'input_specs': [None, *size, 3], 'num_layers': 4, 'channels': CHANNELS, 'name': 'part',
      **options})
  with tf.name_scope('part'):
    layer.build([None, None, None, 3])
  spies.randomize(layer, seed)
  if layer.is_routed:
    mix_decisions(layer, seed)
  return layer


def mix_decisions(layer, seed):
  """Sets the bias of every router so that some images open a gate and others do not."""
  rng = np.random.default_rng(seed)
  call = router.PathRouter.call

  def center(self, pooled, present, training=None):
    hidden = self._hidden(tf.cast(pooled, self.dtype))
    if self._norm_type == 'group':
      hidden = tf.nn.relu(self._norm(hidden))
    logits = tf.reduce_mean(hidden, [1, 2]) @ self._output.kernel
    logits = logits.numpy().astype(np.float64)
    logits = logits if present is None else logits[present.numpy()]
    if len(logits):
      spread = 1 / (logits.std(0) + 0.02)
      share = rng.uniform(-0.1, 0.8, logits.shape[1])
      # If the share is below 0, the gate is open for all images.
      border = [np.quantile(x, max(s, 0)) - 0.1 * (s < 0) for x, s in zip(logits.T, share)]
      self._output.kernel.assign(self._output.kernel * spread)
      self._output.bias.assign(-spread * border)
    return call(self, pooled, present, training)

  inference, layer.inference = layer.inference, 'mask'
  with mock.patch.object(router.PathRouter, 'call', center):
    layer(images())
  layer.inference = inference


def set_gates(layer, bias):
  """Makes all gates tanh(bias)."""
  for variable in layer.variables:
    if 'router/output' in variable.name:
      variable.assign(np.full(variable.shape, 0 if 'kernel' in variable.name else bias))


def run(layer, inputs, training=False):
  with routing.RoutingTape() as tape:
    outputs = layer(inputs, training=training)
  routed.check_complete(tape, layer)
  return {level: x.numpy() for level, x in outputs.items()}, tape.routing()


def gates_of(record):
  return {name.split('/', 1)[1]: gate.numpy() for name, gate in record.gates.items()}


def same(first, second, tolerance=1e-5):
  assert sorted(first) == sorted(second)
  for level in first:
    np.testing.assert_allclose(first[level], second[level], tolerance, tolerance, err_msg=level)


def needed_parts(record, row):
  """Returns the names of the parts that an image runs, from its gates alone."""
  gates, parts, present = gates_of(record), set(), {(0, 0)}
  for name in gates:
    layer, scale, path = name.split('/')
    layer, scale = int(layer[6:]), int(scale[6:])
    node = f'layer_{layer:02}_scale_{scale}'
    if (layer, scale) not in present:
      continue
    own = [other for other in gates if other.startswith(name[:name.rindex('/') + 1])]
    runs = any(gates[other][row] > 0 for other in own)
    parts.add(f'{node}/router')
    if gates[name][row] > 0 or (path == 'keep' and not runs):
      present.add((layer + 1, scale + caddet_reference.SCALE_CHANGES[path]))
    if gates[name][row] > 0:
      parts |= {f'{node}/separable_1', f'{node}/separable_2', f'{node}/{path}'}
  return parts
