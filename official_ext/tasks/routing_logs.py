"""What an evaluation under a routing tape collects, and what its logs say of it."""
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from absl import logging
import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf, tf_keras

from official_ext.ops import routing
from official_ext.visualization import routes
from official_ext.visualization import routing_figures

_GIGA = 1e9
_PICTURED_IMAGES = 4
# Beyond this share of what gates can save, executed and expected cost have drifted apart.
_DRIFT = 0.1


# A number, and what is wrong beyond it.
Limit = Tuple[float, str]


def cost_summary(record: routing.Routing, target: float) -> Dict[str, tf.Tensor]:
  """Returns cost in 10^9 multiply-adds (GMAC) per image, by name.

  Args:
    record: what a tape returned.
    target: the budget's share of what gates can save.

  Returns:
    `executed` and `expected`, float32 `[batch]`; `target`, `minimum` and `maximum`,
    float32 scalars.
  """
  return {
      'executed': record.executed / _GIGA,
      'expected': record.expected / _GIGA,
      'target': (record.minimum + target * (record.maximum - record.minimum)) / _GIGA,
      'minimum': record.minimum / _GIGA,
      'maximum': record.maximum / _GIGA,
  }


def cost_names() -> Sequence[str]:
  """Returns the names in a `cost_summary`."""
  return ('executed', 'expected', 'target', 'minimum', 'maximum')


def open_ratios(record: routing.Routing) -> Dict[str, tf.Tensor]:
  """Returns what opened per image, by the gate's name.

  `[batch]`: an open-or-shut gate itself, or the share of positions that are not shut; of a choice
  `[batch, paths]`.
  """
  return {
      name: gate if gate.shape.rank < 3 else
      tf.reduce_mean(tf.cast(gate > 0, tf.float32), axis=list(range(1, gate.shape.rank)))
      for name, gate in record.gates.items()
  }


def _flat(name: str, values: np.ndarray) -> Dict[str, float]:
  """Splits the ratios of a choice into one named value per path."""
  mean = np.mean(values, axis=0)
  if mean.ndim == 0:
    return {name: float(mean)}
  return {f'{name}/{path}': float(value) for path, value in enumerate(mean)}


def evaluation_logs(values: Mapping[str, np.ndarray], limits: Mapping[str, Limit],
                  samples_gates: bool) -> Dict[str, Any]:
  """Returns what an evaluation's logs say of cost, gates and metrics, and warns of what is odd.

  Args:
    values: `gmac/*`, `gate/*`, `metric/*` and `scales/presence`, one row per image.
    limits: of metrics by name, and what it means to be beyond.
    samples_gates: whether training draws gates that evaluation takes as they are.

  Returns:
    Numbers, and pictures as uint8 `[1, height, width, 3]`, under `routing/` and `image/`.
  """
  logs = {f'routing/gmac/{name}/{statistic}': float(getattr(np, statistic)(values[f'gmac/{name}']))
          for name in ('executed', 'expected') for statistic in ('mean', 'min', 'max', 'std')}
  for name in ('target', 'minimum', 'maximum'):
    logs[f'routing/gmac/{name}'] = float(np.mean(values[f'gmac/{name}']))
  for name in (name for name in values if name.startswith('gate/')):
    logs.update(_flat(f'routing/{name}', values[name]))
  for name in (name for name in values if name.startswith('metric/')):
    logs[f'routing/{name}'] = float(np.mean(values[name]))
    warn_beyond(limits.get(name), f'routing/{name}', logs[f'routing/{name}'])
  if samples_gates:
    _warn_of_drift(logs)
  _warn_of_dead_gates(values)
  if 'scales/presence' in values:
    logs.update(_scale_pictures(values))
  return logs


class RoutingMean(tf_keras.metrics.Mean):
  """A mean that only a routed task updates: Model Garden's steps do not know its name.

  One with a limit warns, once, when the moving average of what it showed at the end of
  each training loop passes the limit.
  """

  def __init__(self, name: str, limit: Optional[Limit] = None):
    super().__init__(name, dtype=tf.float32)
    self._limit, self._average = limit, None

  def reset_state(self) -> None:
    if self._limit and tf.executing_eagerly() and float(self.count):
      value = float(self.result())
      self._average = value if self._average is None else (self._average + value) / 2
      if warn_beyond(self._limit, self.name, self._average):
        self._limit = None
    super().reset_state()


def warn_beyond(limit: Optional[Limit], name: str, value: float) -> bool:
  """Warns of a metric that is beyond its limit, or not a number."""
  if limit is None or value <= limit[0]:
    return False
  logging.warning('%s is %.3g, above %.3g: %s.', name, value, *limit)
  return True


def first_replica(values: Mapping[str, Any]) -> Dict[str, Any]:
  """Returns NumPy arrays of what a step gave as tuples of one value per replica."""
  return {name: first_replica(value) if isinstance(value, Mapping) else value[0].numpy()
          for name, value in values.items()}


def pictures(image: np.ndarray, gates: Mapping[str, np.ndarray], executed: np.ndarray,
              maximum: np.ndarray) -> Dict[str, np.ndarray]:
  """Returns pictures of what was decided about the first images, uint8 `[1, height, width, 3]`.

  The names are those of Model Garden's image summaries: `image/gates/<number>/<picture>`.
  """
  shown = np.clip(image * preprocess_ops.STDDEV_RGB + preprocess_ops.MEAN_RGB, 0, 255)
  drawn = {}
  for number, one in enumerate(shown[:_PICTURED_IMAGES].astype(np.uint8)):
    plots = routing_figures.draw_decisions(
        one, {name: gate[number] for name, gate in gates.items()}, executed[number], maximum)
    drawn.update({f'image/gates/{number}/{name}': routing_figures.render(plot)[None]
                  for name, plot in plots.items()})
  return drawn


def _scale_pictures(values: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
  """Returns pictures of routes beside the scales of objects, uint8 `[1, height, width, 3]`."""
  gates = {name: value for name, value in values.items() if name.startswith('gate/')}
  plots = routes.draw_scale_relations(
      gates, values['gmac/executed'] * _GIGA, values['scales/presence'])
  return {f'image/routes/{name}': routing_figures.render(plot)[None]
          for name, plot in plots.items()}


def _warn_of_drift(logs: Mapping[str, float]) -> None:
  executed, expected = (logs[f'routing/gmac/{name}/mean'] for name in ('executed', 'expected'))
  range_ = logs['routing/gmac/maximum'] - logs['routing/gmac/minimum']
  if abs(executed - expected) > _DRIFT * range_:
    logging.warning(
        'The cost executed, %.3f GMAC per image, is far from the %.3f GMAC that the gates would '
        'cost if they were sampled, as in training: they decide with little confidence. '
        'task.sampled_evaluation_runs=1 evaluates sampled gates beside this.', executed, expected)


def _warn_of_dead_gates(values: Mapping[str, np.ndarray]) -> None:
  constant = {'open': [], 'shut': []}
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
  # A dynamic head has hundreds of gates, which all start open.
  for state, names in constant.items():
    if names:
      logging.warning('Gates %s for every image of this evaluation: %s.', state, ', '.join(names))
