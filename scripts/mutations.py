"""Small mistakes, each of which a test must notice: what `check_mutations.py` tries, one by one."""
from typing import NamedTuple, Tuple


class Mutation(NamedTuple):
  """A mistake in one place.

  Attributes:
    path: of the file, below `official_ext/`.
    old: text that the file has once.
    new: what stands there by mistake.
    tests: the file of tests that must fail, below `tests/`.
  """
  path: str
  old: str
  new: str
  tests: str


def _in(path: str, tests: str, *pairs: Tuple[str, str]) -> Tuple[Mutation, ...]:
  return tuple(Mutation(f'{path}.py', old, new, f'{tests}_test.py') for old, new in pairs)


MUTATIONS = (
    # Routing and its costs.
    *_in('ops/routing', 'ops/routing',
         ('share - target) if', 'share + target) if'),
         ('routing.maximum - routing.minimum)', 'routing.maximum)')),
    *_in('ops/conditional', 'ops/conditional',
         ('return tf.tensor_scatter_nd_add(base, rows, result)',
          'return tf.tensor_scatter_nd_update(base, rows, result)'),
         ('tf.reduce_any(images, 0), tf.reduce_all(images, 0)',
          'tf.reduce_all(images, 0), tf.reduce_all(images, 0)')),
    *_in('modeling/layers/gumbel_selection', 'modeling/layers/gates',
         ('tf.stop_gradient(hard - soft) + soft', 'hard'),
         ('return -tf.math.log(-', 'return tf.math.log(-'),
         ('self._counter.assign_add(1)', 'self._counter.assign_add(0)')),
    *_in('modeling/layers/gates', 'modeling/layers/gates',
         ("levels if self._direction == 'upward' else levels[::-1]", 'levels'),
         ('output, state = self._cell', 'output, _ = self._cell')),
    # Necks.
    *_in('modeling/decoders/pyramid', 'modeling/decoders/pyramid',
         ('str(int(level) + 1)', 'str(int(level) + 2)'),
         ('sampling.resize_nearest(coarser, laterals[level])',
          'sampling.resize_bilinear(coarser, laterals[level])')),
    *_in('modeling/decoders/dyfpn', 'modeling/decoders/dyfpn',
         ('conditional.run_selected(lateral, features, execute > 0, skip)',
          'skip + lateral(features)'),
         ('* lateral(features)', '+ lateral(features)'),
         ('gate[:, index], training)', 'gate[:, 0], training)'),
         ('exact(gate[:, index]) * paths', 'exact(expected[:, index]) * paths')),
    *_in('modeling/layers/refinement', 'modeling/layers/refinement',
         ('tf.reverse(offset, [-1])', 'offset'),
         ('(last / sides)', '(2 * last / sides)'),
         ('sampled + resized + self._base', 'sampled + self._base'),
         ('return self._output(merged), merged', 'return self._output(merged), resampled')),
    *_in('modeling/layers/context', 'modeling/layers/context',
         ('-(-(index + 1) * size // bins)', '(index + 1) * size // bins'),
         ('[features, *found]', '[features, *found[-1:]]')),
    *_in('modeling/layers/cross_scale', 'modeling/layers/implicit',
         ('(i, i + step): kind if', '(i, i - step): kind if'),
         ('self._parts.activation(features)', 'features')),
    *_in('modeling/layers/norms', 'modeling/layers/norms',
         ('self.moving_variance + self._epsilon', 'self.moving_variance + self._momentum'),
         ('square - tf.square(mean), 0)', 'square, 0)')),
    *_in('modeling/layers/weight_norm', 'modeling/layers/weight_norm',
         ('axes = [0, 1, 3] if self._depthwise else [0, 1, 2]', 'axes = [0, 1, 2]'),
         ("padding = 'SAME' if stride == 1 else [[0, 0], [pad, pad], [pad, pad], [0, 0]]",
          "padding = 'SAME'")),
    # The fixed point.
    *_in('ops/solvers', 'ops/fixed_point',
         ('1 - c[:, -1:]\n', '1 + c[:, -1:]\n'),
         ('combine(self._coefficients(gram), history.f)',
          'combine(self._coefficients(gram), history.q)')),
    *_in('ops/fixed_point', 'ops/equilibrium',
         ('[a + b for a, b in zip(_transposed', '[a - b for a, b in zip(_transposed'),
         ('[damping * f + (1 - damping)', '[(1 - damping) * f + damping'),
         ('return _implicit(function, state, solver, backward_evaluations, memory), solution',
          'return list(function(state)), solution')),
    # The dynamic head.
    *_in('modeling/layers/spatial_gates', 'modeling/layers/spatial_gates',
         ('tf.tanh(logits - tau)', 'tf.tanh(logits + tau)'),
         ('gates > threshold, gates', 'gates >= threshold, gates')),
    *_in('modeling/layers/dynamic_steps', 'modeling/layers/dynamic_steps',
         ('message *= tf.cast(gates[path, source]', 'message += tf.cast(gates[path, source]'),
         ('self.neighbor_weight * total if self._is_gated else total', 'total'),
         ('tf.nn.relu(features + residual)', 'tf.nn.relu(residual)')),
    *_in('modeling/layers/dynamic_block', 'modeling/heads/dynamic_head',
         ('executed += conv * (_sum(gate > 0) + _sum(_served(gate) > 0))',
          'executed += conv * 2 * _sum(gate > 0)'),
         ('gates[path, level] = one', 'gates[path, level] = 1 - one')),
    *_in('ops/sparse_conv', 'ops/sparse_conv',
         ('tf.range(1, tf.shape(rows)[0] + 1)', 'tf.range(tf.shape(rows)[0])'),
         ('shape[2] + columns - 1', 'shape[2] + columns'),
         ('gather_nd(gate, second.index)', 'ones_like(rows[:, :1])')),
    *_in('ops/group_norm', 'ops/group_norm',
         ('variance + tf.math.squared_difference(mean, center)', 'variance'),
         ('spread + epsilon', 'spread')),
    # CADDet.
    *_in('modeling/layers/path_decisions', 'modeling/layers/path_decisions',
         ('(gates >= THRESHOLD) & here', 'gates >= THRESHOLD'),
         ('leaves = is_open | passes', 'leaves = is_open'),
         ('& ~tf.expand_dims(runs, 2) & _IS_KEEP', '& _IS_KEEP'),
         ('gates = tf.tanh(supernet', 'gates = tf.sigmoid(supernet')),
    *_in('modeling/layers/path_router', 'modeling/layers/path_router',
         ('[length - length // 2 for length in size]', '[length // 2 for length in size]'),
         ('[:, length // 2:])', '[:, length - length // 2:])')),
    *_in('modeling/layers/presence_norm', 'modeling/layers/presence_norm',
         ('weight = tf.cast(present, self.dtype)[:, None]',
          'weight = tf.ones_like(tf.cast(present, self.dtype))[:, None]'),
         ('* (1 - self._momentum)', '* self._momentum'),
         ('tf.where(count > 0, mean, self.moving_mean)', 'mean'),
         ('1 - self._epsilon)', '1.0)')),
    *_in('modeling/layers/conv_norm', 'modeling/layers/conv_norm',
         ('self._pointwise * self._norm.fold()', 'self._pointwise + 0 * self._norm.fold()'),
         ('if self._strides > 1 else', 'if self._strides > 2 else')),
    *_in('modeling/layers/supernet_node', 'modeling/backbones/caddet_routing',
         ('weighted(tf.where(runs.images[:, None, None, None], cell, features))', 'weighted(cell)'),
         ('tf.nn.relu(apply(second, apply(first, features)) + features)',
          'tf.nn.relu(apply(second, apply(first, features)))'),
         ('tf.tensor_scatter_nd_update(features, rows, cell)',
          'tf.tensor_scatter_nd_add(features, rows, cell)')),
    *_in('modeling/layers/supernet', 'modeling/backbones/caddet',
         ('tf.reduce_max(gates, 2) * cells', 'tf.reduce_sum(gates, 2) * cells'),
         ('max(scale, scale + STEPS[path])', 'scale'),
         ('total(tf.cast(soft > 0, tf.float64)) + running', 'total(soft) + running')),
    *_in('ops/scale_budget', 'ops/scale_budget',
         ('(longer > edges[:-1])', '(longer >= edges[:-1])'),
         ('axis=-1), 1.0)', 'axis=-1), 0.0)'),
         ('history < losses[:, None]', 'history > losses[:, None]')),
    *_in('ops/path_similarity', 'ops/path_similarity',
         ('return 1 - tf.reduce_mean', 'return tf.reduce_mean'),
         ('tf.zeros([num_images])) / 2', 'tf.zeros([num_images]))')),
    *_in('tasks/budgets', 'tasks/budgets',
         ('>= options.start_step, tf.float32)', '<= options.start_step, tf.float32)'),
         ('losses = tf.stop_gradient(image_losses())', 'losses = 0 * image_losses()')),
    # One-stage detectors.
    *_in('ops/assigners', 'ops/assigners',
         ('_best(is_match, -areas(boxes))', '_best(is_match, areas(boxes))'),
         ('tf.maximum(count - 1, 1)', 'count'),
         ('divide_no_nan(hull - union, hull)', 'divide_no_nan(hull - union, union)'),
         ('[points - to_sides[..., :2], points + to_sides[..., 2:]]',
          '[points - to_sides[..., 2:], points + to_sides[..., :2]]')),
    *_in('tasks/dense', 'tasks/dense',
         ('boxes / _denominator(terms.weights)', 'boxes / num_positives'),
         ('weight * losses.boxes + losses.centerness', 'weight * losses.boxes')),
)
