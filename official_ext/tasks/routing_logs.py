"""Logs about routing in training and evaluation, and the warnings that belong to them."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging
import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.visualization import routes
from official_ext.visualization import routing_figures

_GIGA = 1e9
_NUM_PICTURES = 4
# Warns where executed and expected cost differ by more than this share of what gates can save.
_DRIFT = 0.1


def cost_summary(record: routing.Routing, target: float | None) -> dict[str, tf.Tensor]:
  """Returns cost in 10^9 multiply-adds (GMAC) per image, by name.

  Args:
    record: what a tape returned.
    target: the budget's share of what all gates can save; None if it is about a part of them.

  Returns:
    `executed` and `expected`, float32 `[batch]`; `minimum`, `maximum` and, if there is a target,
    `target`, float32 scalars.
  """
  costs = {name: getattr(record, name) for name in cost_names(has_target=False)}
  if target is not None:
    costs['target'] = record.minimum + target * (record.maximum - record.minimum)
  return {name: cost / _GIGA for name, cost in costs.items()}


def cost_names(has_target: bool) -> Sequence[str]:
  """Returns the names in a `cost_summary`."""
  return ('executed', 'expected', 'minimum', 'maximum', *(['target'] if has_target else []))


def open_ratios(record: routing.Routing) -> dict[str, tf.Tensor]:
  """Returns by the name of each gate how far it is open for each image.

  Returns:
    For an open-or-shut gate its value, `[batch]`; for a choice its value, `[batch, paths]`; for
    a gate per position the share of positions that are not shut, `[batch]`.
  """
  return {
      name: tf.reduce_mean(tf.cast(gate > 0, tf.float32), axis=[1, 2, 3])
      if routing.is_per_position(gate) else gate for name, gate in record.gates.items()
  }


def _flat(name: str, values: np.ndarray) -> dict[str, float]:
  """Returns the mean over images of one gate: one value, or one per path of a choice."""
  mean = np.mean(values, axis=0)
  if mean.ndim == 0:
    return {name: float(mean)}
  return {f'{name}/{path}': float(value) for path, value in enumerate(mean)}


def evaluation_logs(values: Mapping[str, np.ndarray], limits: Mapping[str, routed.Limit],
                    samples_gates: bool) -> dict[str, Any]:
  """Returns the logs of an evaluation about cost, gates and metrics, and warns of what is odd.

  Warnings are about metrics above their limit, gates that never change, and executed cost that
  is far from the expected cost.

  Args:
    values: one row per image of `gmac/*`, of which the whole network, `network`, may be missing,
      `share/*`, `gate/*`, `metric/*` and `scales/presence`; one value per step of `loss/*`.
    limits: name of a metric, as in `values` -> its limit.
    samples_gates: whether training samples gates, while evaluation takes the most probable ones.

  Returns:
    Numbers, and pictures as uint8 `[1, height, width, 3]`, under `routing/` and `image/`.
  """
  logs: dict[str, Any] = {
      f'routing/gmac/{name}/{statistic}': float(getattr(np, statistic)(values[f'gmac/{name}']))
          for name in ('executed', 'expected', 'network') if f'gmac/{name}' in values
      for statistic in ('mean', 'min', 'max', 'std')}
  for name in values:
    if name in ('gmac/target', 'gmac/minimum', 'gmac/maximum') or name.startswith(
        ('loss/', 'share/')):
      logs[f'routing/{name}'] = float(np.mean(values[name]))
  for name in (name for name in values if name.startswith('gate/')):
    logs.update(_flat(f'routing/{name}', values[name]))
  for name in (name for name in values if name.startswith('metric/')):
    logs[f'routing/{name}'] = float(np.mean(values[name]))
    warn_beyond(limits.get(name), f'routing/{name}', logs[f'routing/{name}'])
  if samples_gates:
    _warn_of_drift(logs)
  _warn_of_constant_gates(values)
  if 'scales/presence' in values:
    logs.update(_scale_pictures(values))
  return logs


def network_gmac(executed: np.ndarray, sizes: np.ndarray,
                 static_cost: Callable[[tuple[int, int]], int]) -> dict[str, np.ndarray]:
  """Returns `gmac/network`, the cost of the whole network for each image, in 10^9 multiply-adds.

  It is empty, after a warning, for a network that cannot be counted.

  Args:
    executed: the routed parts, in 10^9 multiply-adds, `[images]`.
    sizes: height and width of the network's input for each image, `[images, 2]`.
    static_cost: size -> multiply-adds of the other parts.
  """
  static = {}
  try:
    for height, width in np.unique(sizes, axis=0).tolist():
      static[height, width] = static_cost((height, width)) / _GIGA
  except ValueError as error:
    logging.warning('The cost of the whole network is not logged, because it cannot be counted: '
                    '%s', error)
    return {}
  others = np.array([static[height, width] for height, width in sizes.tolist()])
  return {'gmac/network': executed + others}


class RoutingKerasMean(tf_keras.metrics.Mean):
  """Keras metric of routing values, which `RoutedTask` updates.

  Model Garden's training step must not get it: that step looks up every Keras metric by name
  among its own losses.

  A mean with a limit warns once: when the moving average of its results at the end of each
  training loop is above the limit.
  """

  def __init__(self, name: str, limit: routed.Limit | None = None):
    """Initializes the metric.

    Args:
      name: `routing/<kind>/<name>`.
      limit: the value above which to warn, and the reason; None for no warning.
    """
    super().__init__(name, dtype=tf.float32)
    self._limit = limit
    self._average: float | None = None

  def reset_state(self) -> None:
    """Starts a new mean; the trainer calls it at the end of each training loop."""
    # A variable of several replicas is no number, but a tensor of it is.
    if self._limit and tf.executing_eagerly() and float(tf.convert_to_tensor(self.count)):
      value = float(self.result())
      self._average = value if self._average is None else (self._average + value) / 2
      if warn_beyond(self._limit, self.name, self._average):
        self._limit = None
    super().reset_state()


def warn_beyond(limit: routed.Limit | None, name: str, value: float) -> bool:
  """Warns of a metric that is above its limit or is not a number, and returns whether it did."""
  if limit is None or value <= limit[0]:
    return False
  logging.warning('%s is %.3g, above %.3g: %s.', name, value, *limit)
  return True


def first_replica(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the NumPy arrays of the first replica.

  Args:
    values: name -> tuple of one tensor per replica, or such a mapping again.
  """
  return {name: first_replica(value) if isinstance(value, Mapping) else value[0].numpy()
          for name, value in values.items()}


def pictures(images: np.ndarray, gates: Mapping[str, np.ndarray], executed: np.ndarray,
             maximum: np.ndarray) -> dict[str, np.ndarray]:
  """Draws what was decided about the first images of a batch.

  Args:
    images: float32 `[batch, height, width, 3]`, normalized as Model Garden's parsers do.
    gates: name -> gates of the images.
    executed: multiply-adds `[batch]`.
    maximum: multiply-adds, scalar.

  Returns:
    Pictures, uint8 `[1, height, width, 3]`, by `image/gates/<number>/<picture>`; Model Garden
    writes everything under `image/` as image summaries.
  """
  pixels = np.clip(images * preprocess_ops.STDDEV_RGB + preprocess_ops.MEAN_RGB, 0, 255)
  drawn = {}
  for number, image in enumerate(pixels[:_NUM_PICTURES].astype(np.uint8)):
    plots = routing_figures.draw_decisions(
        image, {name: gate[number] for name, gate in gates.items()}, float(executed[number]),
        float(maximum))
    drawn.update({f'image/gates/{number}/{name}': routing_figures.render(plot)[None]
                  for name, plot in plots.items()})
  return drawn


def _scale_pictures(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns pictures of routes beside the scales of objects, uint8 `[1, height, width, 3]`."""
  gates = {name: value for name, value in values.items() if name.startswith('gate/')}
  plots = routes.draw_scale_relations(
      gates, values['gmac/executed'] * _GIGA, values['scales/presence'])
  return {f'image/routes/{name}': routing_figures.render(plot)[None]
          for name, plot in plots.items()}


def _warn_of_drift(logs: Mapping[str, float]) -> None:
  """Warns if the executed cost of the logs is far from the expected cost."""
  executed, expected = (logs[f'routing/gmac/{name}/mean'] for name in ('executed', 'expected'))
  savable = logs['routing/gmac/maximum'] - logs['routing/gmac/minimum']
  if abs(executed - expected) > _DRIFT * savable:
    logging.warning(
        'The cost executed, %.3f GMAC per image, is far from the %.3f GMAC that the gates would '
        'cost if they were sampled, as in training: they decide with little confidence. '
        'task.sampled_evaluation_runs=1 evaluates sampled gates beside this.', executed, expected)


def _warn_of_constant_gates(values: Mapping[str, np.ndarray]) -> None:
  """Warns of gates that decided the same for every image."""
  constant: dict[str, list[str]] = {'open': [], 'shut': []}
  for name, gate in values.items():
    if not name.startswith('gate/'):
      continue
    gate_name = name[len('gate/'):]
    if gate.ndim == 2:
      if np.max(np.mean(gate, axis=0)) == 1:
        logging.warning('Gate %s chose path %d for every image of this evaluation.', gate_name,
                        np.argmax(gate[0]))
    elif np.all(gate == 0) or np.all(gate == 1):
      constant['open' if gate[0] else 'shut'].append(gate_name)
  # One line per state: a dynamic head has hundreds of gates, which all start open.
  for state, names in constant.items():
    if names:
      logging.warning('Gates %s for every image of this evaluation: %s.', state, ', '.join(names))
