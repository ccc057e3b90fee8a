"""Branches run for the images that select them and for no others."""
import itertools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import conditional
import spies

RNG = np.random.default_rng(0)
INPUTS = tf.constant(RNG.normal(size=[4, 3, 5, 2]))
BASE = tf.constant(RNG.normal(size=[4, 3, 5, 6]))
KERNEL = RNG.normal(size=[3, 3, 2, 6])
PATTERNS = list(itertools.product([False, True], repeat=4))


def _branch(kernel):
  return lambda x: tf.nn.conv2d(x, kernel, 1, 'SAME')


def _masked(kernel, inputs, selected, base):
  return base + tf.cast(selected, base.dtype)[:, None, None, None] * _branch(kernel)(inputs)


def _run(branch, inputs, selected, base, **options):
  selection, = conditional.select(selected[:, None])
  return conditional.run_selected(branch, inputs, selection, base, **options)


def _eager(inputs, selected, base):
  return _run(_branch(KERNEL), inputs, selected, base)


_traced = tf.function(_eager, autograph=False, input_signature=[
    tf.TensorSpec([None, None, None, 2], tf.float64), tf.TensorSpec([None], tf.bool),
    tf.TensorSpec([None, None, None, 6], tf.float64)])


@pytest.mark.parametrize('selected', PATTERNS)
def test_equals_multiplying_by_a_mask(selected):
  expected = _masked(KERNEL, INPUTS, tf.constant(selected), BASE)
  for run in (_traced, _eager):
    result = run(INPUTS, tf.constant(selected), BASE)
    np.testing.assert_allclose(result, expected, 1e-12, 1e-12)
    for row in np.flatnonzero(np.logical_not(selected)):
      np.testing.assert_array_equal(result[row], BASE[row])


@pytest.mark.parametrize('run', [_traced, _eager])
def test_empty_batch(run):
  assert run(INPUTS[:0], tf.zeros([0], tf.bool), BASE[:0]).shape == (0, 3, 5, 6)


@pytest.mark.parametrize('selected', PATTERNS)
@pytest.mark.parametrize('in_graph', [False, True])
def test_gradients_equal_those_of_the_mask(selected, in_graph):
  selected = tf.constant(selected)
  kernel = tf.constant(KERNEL)

  def gradients(run):
    with tf.GradientTape() as tape:
      tape.watch([kernel, INPUTS, BASE])
      loss = tf.reduce_sum(tf.square(run(INPUTS, selected, BASE)))
    return tape.gradient(
        loss, [kernel, INPUTS, BASE], unconnected_gradients=tf.UnconnectedGradients.ZERO)

  def run(*args):
    return _run(_branch(kernel), *args)

  compute = tf.function(gradients, autograph=False) if in_graph else gradients
  for ours, masked in zip(compute(run), gradients(lambda *args: _masked(kernel, *args))):
    np.testing.assert_allclose(tf.convert_to_tensor(ours), masked, 1e-10, 1e-10)


@pytest.mark.parametrize('selected', PATTERNS)
def test_nan_in_the_branch_reaches_only_images_that_select_it(selected):
  poisoned = np.full(KERNEL.shape, np.nan)
  result = _run(_branch(poisoned), INPUTS, tf.constant(selected), BASE)
  np.testing.assert_array_equal(np.isnan(result).any((1, 2, 3)), selected)


def test_the_branch_runs_on_selected_rows_only_and_not_at_all_for_none():
  executions = tf.Variable(0)
  rows = tf.Variable(0)

  def branch(x):
    executions.assign_add(1)
    rows.assign_add(tf.shape(x)[0])
    return _branch(KERNEL)(x)

  traced = tf.function(
      lambda selected: _run(branch, INPUTS, selected, BASE), autograph=False,
      input_signature=[tf.TensorSpec([None], tf.bool)])
  for selected in PATTERNS:
    executions.assign(0)
    rows.assign(0)
    traced(tf.constant(selected))
    assert (int(executions), int(rows)) == (int(any(selected)), sum(selected))


@pytest.mark.parametrize('selected', PATTERNS)
def test_the_convolution_itself_receives_the_selected_rows(selected):
  with spies.OperationSpy() as spy:
    _run(_branch(KERNEL), INPUTS, tf.constant(selected), BASE)
  assert spy.rows == ([sum(selected)] if any(selected) else [])
  assert spy.multiply_adds == sum(selected) * 3 * 5 * 6 * 3 * 3 * 2


@pytest.mark.parametrize('selected', PATTERNS)
def test_any_number_of_images_equals_the_mask(selected):
  selected = tf.constant(selected)
  for images in (slice(0, 4), slice(0, 1), slice(0, 0)):
    arguments = INPUTS[images], selected[images], BASE[images]
    expected = _masked(KERNEL, *arguments)
    for run in (_eager, _traced):
      np.testing.assert_allclose(run(*arguments), expected, 1e-12, 1e-12)


@pytest.mark.parametrize('selected', PATTERNS)
@pytest.mark.parametrize('images', [4, 1])
def test_results_replace_rows_of_several_maps(selected, images):
  """A branch may have several inputs and results; `before` gets the whole batch."""
  seen = []

  def halves(inputs):
    seen.append(len(inputs[0]))
    return [x / 2 for x in inputs]

  selected = tf.constant(selected[:images])
  pair = (INPUTS[:images], tf.reduce_sum(INPUTS[:images], [1, 2, 3]))
  base = (BASE[:images, ..., :2], tf.ones([images], tf.float64))
  maps, sums = _run(lambda xs: (3 * xs[0], -xs[1]), pair, selected, base, replace=True,
                    before=halves)
  where = selected.numpy()
  np.testing.assert_allclose(maps, np.where(where[:, None, None, None], 1.5 * pair[0], base[0]))
  np.testing.assert_allclose(sums, np.where(where, -pair[1] / 2, 1.0))
  assert seen == ([images] if where.any() else [])


def test_selections_are_counted_one_by_one():
  images = tf.constant(np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 1]], bool))
  for rows, some, every in ((3, [0, 1, 1, 1], [0, 1, 0, 0]), (1, [0, 1, 1, 0], [0, 1, 1, 0]),
                            (0, [0, 0, 0, 0], [0, 0, 0, 0])):
    selections = conditional.select(images[:rows])
    assert [bool(selection.some) for selection in selections] == some
    assert [bool(selection.every) for selection in selections] == every
    for column, selection in enumerate(selections):
      np.testing.assert_array_equal(selection.images, images[:rows, column])


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_switch_runs_one_branch(count):
  branches = [lambda number=number: {'number': tf.constant(number)} for number in range(count)]
  run = tf.function(lambda index: conditional.switch(index, branches), autograph=False)
  graph = run.get_concrete_function(tf.TensorSpec([], tf.int32)).graph
  assert [run(tf.constant(index))['number'] for index in range(count)] == [*range(count)]
  types = {op.type for op in graph.get_operations()} | {
      node.op for function in graph.as_graph_def().library.function for node in function.node_def}
  assert not types & {'Case', 'StatelessCase'}
  assert bool(types & {'If', 'StatelessIf'}) == (count > 1)
