"""The checks that every routed decoder passes; they name no component."""
from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.losses import budgets
from official_ext.modeling.layers import routed
from official_ext.ops import multiply_adds
from official_ext.ops import routing
from component import Component
from component import same
import spies


@dataclasses.dataclass
class Routed:
  """What the checks need to know of a routed component.

  Attributes:
    part: the component, without batch norm.
    patterns: `[patterns, levels, paths]`, hard gates; the first the cheapest, the last the
      dearest.
    cost: multiply-adds of the branches that a pattern runs, for one image: called with
      the pattern and the inputs.
    gate_cost: multiply-adds of the gate network.
    branch_convs: number of convolutions that gates decide about.
  """
  part: Component
  patterns: np.ndarray
  cost: Callable[[np.ndarray, Any], float]
  gate_cost: float
  branch_convs: int

  def inputs(self, **options):
    return self.part.inputs(batch=len(self.patterns), **options)


def _run(layer, inputs, gate, training=False):
  with spies.forced_gates(gate), routing.RoutingTape() as tape:
    outputs = layer(inputs, training=training)
  return outputs, tape.routing()


def _same(first, second):
  """Equal to float32's rounding: the order of sums depends on how many images run together."""
  same(first, second, 1e-5, 1e-6)


def _rows(pyramid, rows):
  return {level: tf.gather(features, rows) for level, features in pyramid.items()}


def check_modes_agree(case: Routed, tmp_path) -> None:
  """R14: running only what is selected equals multiplying by the gates."""
  del tmp_path
  layer, inputs = case.part.make(), case.inputs()
  skipped, record = _run(layer, inputs, case.patterns)
  trained, trained_record = _run(layer, inputs, case.patterns, training=True)
  routed.set_inference(layer, 'mask')
  masked, masked_record = _run(layer, inputs, case.patterns)
  _same(skipped, masked)
  _same(skipped, trained)
  for other in (trained_record, masked_record):
    np.testing.assert_array_equal(record.executed, other.executed)


def check_company(case: Routed, tmp_path) -> None:
  """R16: an answer does not depend on who shares the batch, nor on the order."""
  del tmp_path
  layer, inputs = case.part.make(), case.inputs()
  together, record = _run(layer, inputs, case.patterns)
  order = np.random.default_rng(0).permutation(len(case.patterns))
  shuffled, _ = _run(layer, _rows(inputs, order), case.patterns[order])
  _same(_rows(together, order), shuffled)
  for row in order[:8]:
    alone, alone_record = _run(layer, _rows(inputs, [row]), case.patterns[[row]])
    _same(_rows(together, [row]), alone)
    np.testing.assert_array_equal(record.executed[row], alone_record.executed[0])


def _unused(case, layer, row):
  """Variables that one image alone, deciding this way, does not read."""
  with tf.GradientTape() as tape:
    _run(layer, _rows(case.inputs(), [row]), case.patterns[[row]])
  used = {variable.ref() for variable in tape.watched_variables()}
  return [v for v in layer.trainable_variables if v.ref() not in used and '/gate/' not in v.name]


def check_poison(case: Routed, tmp_path) -> None:
  """R15: NaN in branches that an image does not select leaves it alone, and hits others."""
  del tmp_path
  layer, inputs = case.part.make(), case.inputs()
  healthy, _ = _run(layer, inputs, case.patterns)
  everything = case.cost(np.ones_like(case.patterns[0]), inputs)
  shut = []
  for row, pattern in enumerate(case.patterns):
    unused = _unused(case, layer, row)
    assert bool(unused) == (case.cost(pattern, inputs) < everything)
    shut += unused
    kept = [variable.numpy() for variable in unused]
    for variable in unused:
      variable.assign(np.full(variable.shape, np.nan))
    poisoned, _ = _run(layer, inputs, case.patterns)
    _same(_rows(poisoned, [row]), _rows(healthy, [row]))
    for other, rival in enumerate(case.patterns):
      # Positive control: who selects a path that this image does not is hit.
      selects_more = unused and np.any((rival > 0) & (pattern == 0) & _does_work(case, rival))
      finite = all(np.all(np.isfinite(x[other])) for x in poisoned.values())
      assert finite == (not selects_more)
    for variable, value in zip(unused, kept):
      variable.assign(value)
  assert len({v.ref() for v in shut}) == 2 * case.branch_convs


def _does_work(case, pattern):
  """Which of a pattern's gates stand for a branch that costs something."""
  work = np.zeros(pattern.shape, bool)
  for index in np.argwhere(pattern > 0):
    alone = np.zeros_like(pattern)
    alone[tuple(index)] = 1
    work[tuple(index)] = case.cost(alone, case.inputs()) > 0
  return work


def check_cost(case: Routed, tmp_path) -> None:
  """R17: recorded cost equals NumPy's, and that of the operations that really ran."""
  del tmp_path
  layer = case.part.make()
  for size in [(32, 40), (64, 80), (75, 101)]:
    inputs = case.inputs(size=size)
    _, record = _run(layer, inputs, case.patterns)
    expected = [case.gate_cost + case.cost(p, inputs) for p in case.patterns]
    np.testing.assert_allclose(record.executed, expected, 1e-6)
    everything = case.cost(np.ones_like(case.patterns[0]), inputs)
    soft = [case.gate_cost + spies.SOFT[0] * case.cost(p, inputs) + spies.SOFT[1] * everything
            for p in case.patterns]
    np.testing.assert_allclose(record.expected, soft, 1e-6)
    np.testing.assert_array_equal(record.executed[-1], record.maximum)
    np.testing.assert_array_equal(record.executed[0], record.minimum)
    assert np.all((record.executed >= record.minimum) & (record.executed <= record.maximum))

    function = tf.function(lambda x: layer(x, training=True), autograph=False)
    graph = function.get_concrete_function(_rows(inputs, [0])).graph
    fixed = multiply_adds.count_graph(graph) - float(record.all_branches)
    with spies.OperationSpy() as spy:
      for row in range(len(case.patterns)):
        _run(layer, _rows(inputs, [row]), case.patterns[[row]])
    total = len(case.patterns) * fixed + np.sum(record.executed)
    np.testing.assert_allclose(spy.multiply_adds, total, 1e-6)
    with spies.OperationSpy() as spy:
      _run(layer, inputs, case.patterns)
    np.testing.assert_allclose(spy.multiply_adds, total, 1e-6)


def check_export(case: Routed, tmp_path) -> None:
  """R15: the exported graph keeps its conditionals, and skips poisoned branches."""
  layer, inputs = case.part.make(), case.inputs()
  healthy, record = _run(layer, inputs, case.patterns)
  convolutions = spies.conditional_operations
  static = tf.function(lambda x: layer(x, training=True), autograph=False)
  number = len(list(convolutions(static.get_concrete_function(inputs).graph)))

  @tf.function(autograph=False, input_signature=[
      {level: tf.TensorSpec([None, None, None, depth])
       for level, depth in case.part.channels.items()},
      tf.TensorSpec([None, *case.patterns.shape[1:]])])
  def serve(inputs, gate):
    outputs, record = _run(layer, inputs, gate)
    return {**outputs, 'executed': record.executed}

  inside = [inside for _, inside in convolutions(serve.get_concrete_function().graph)]
  assert sum(inside) == case.branch_convs
  assert len(inside) == number
  for variable in _unused(case, layer, 0):
    variable.assign(np.full(variable.shape, np.nan))
  module = tf.Module()
  module.layer, module.serve = layer, serve
  tf.saved_model.save(module, str(tmp_path / 'exported'))
  reloaded = tf.saved_model.load(str(tmp_path / 'exported'))
  answer = dict(reloaded.serve(inputs, tf.constant(case.patterns, tf.float32)))
  np.testing.assert_array_equal(answer.pop('executed'), record.executed)
  _same(_rows(answer, [0]), _rows(healthy, [0]))
  assert not all(np.all(np.isfinite(x[-1])) for x in answer.values())


def check_learning(case: Routed, tmp_path) -> None:
  """L7: every branch moves once an image selects it, and stays where none does."""
  del tmp_path
  layer, inputs = case.part.make(), case.inputs()
  moved = set()
  for row, pattern in enumerate(case.patterns):
    variables = [v for v in layer.trainable_variables if '/gate/' not in v.name]
    with tf.GradientTape() as tape:
      outputs, _ = _run(layer, _rows(inputs, [row]), pattern[None], training=True)
      loss = tf.add_n([tf.reduce_sum(tf.square(x)) for x in outputs.values()])
    gradients = zip(variables, tape.gradient(loss, variables))
    now = {v.ref() for v, gradient in gradients if np.any(gradient != 0)}
    assert not now & {v.ref() for v in _unused(case, layer, row)}
    moved |= now
  assert moved == {v.ref() for v in variables}


def check_gates(case: Routed, tmp_path) -> None:
  """R18, R19: gates are 0 or 1 in float32, and the budget measures their cost."""
  del tmp_path
  layer, inputs = case.part.make(), case.inputs()
  for training in (False, True):
    with routing.RoutingTape() as tape:
      layer(inputs, training=training)
    routed.check_complete(tape, layer)
    record = tape.routing()
    assert sorted(record.gates) == sorted(f'{layer.name}/{gate}' for gate in layer.gate_names)
    for gate in record.gates.values():
      assert gate.dtype == tf.float32
      assert set(np.unique(gate)) <= {0.0, 1.0}
    assert {x.dtype for x in spies.costs_of(record)} == {tf.float32}
    assert record.executed.shape == (len(case.patterns),)
  _, record = _run(layer, inputs, case.patterns, training=True)
  spread = float(record.maximum - record.minimum)
  share = [(case.cost(p, inputs) - case.cost(case.patterns[0], inputs)) / spread
           for p in case.patterns]
  np.testing.assert_allclose(
      budgets.budget_loss(record, 0.3), np.mean((np.array(share) - 0.3)**2), 1e-5)


ROUTED_CHECKS = (check_modes_agree, check_company, check_poison, check_cost, check_export,
                 check_learning, check_gates)


def run_routed_checks(case: Routed, tmp_path) -> None:
  """Runs R14 to R19 on a routed decoder; drawing and learning of gates have their own tests."""
  for check in ROUTED_CHECKS:
    check(case, tmp_path)
