"""The profile of a step names the layers and operations that ran, forward and backward."""
import op_times
import pytest
import tensorflow as tf


@pytest.mark.parametrize('name, depth, expected', [
    ('detector/neck/conv/Conv2D', 2, 'detector/neck'), ('Mul', 2, 'no scope'),
    ('gradient_tape/detector/neck/conv/Conv2D', 2, 'gradient of detector/neck'),
    ('gradients_1/detector/conv/Conv2D', 1, 'gradient of detector')])
def test_scopes(name, depth, expected):
  assert op_times.scope(name, depth) == expected


def test_operations_of_both_directions_are_found():
  kernel = tf.Variable(tf.ones([3, 3, 8, 8]))
  images = tf.random.stateless_normal([2, 32, 32, 8], [1, 2])

  @tf.function
  def step():
    with tf.GradientTape() as tape:
      with tf.name_scope('neck/lateral'):
        loss = tf.reduce_sum(tf.nn.conv2d(images, kernel, 1, 'SAME')**2)
    return tape.gradient(loss, kernel)

  step()
  runs = [op_times.record(lambda: step().numpy()) for _ in range(2)]
  forward, backward = (
      [op for op in runs[0] if op_times.scope(op.name, 2) == scope and 'Conv2D' in op.kind]
      for scope in ('neck/lateral', 'gradient of neck/lateral'))
  assert len(forward) == 1 and len(backward) == 1  # The images need no gradient.
  assert all(op.milliseconds > 0 for op in forward + backward)
  lines = op_times.table(runs, 2, 3)
  total = sum(op.milliseconds for run in runs for op in run) / 2
  row, = (line for line in lines if line.startswith('gradient of neck/lateral '))
  milliseconds, share = row.split()[-2:]
  assert float(milliseconds) == pytest.approx(float(share[:-1]) / 100 * total, abs=0.1 * total)
  assert [line.split()[0] for line in lines if line.endswith('share')] == ['scope', 'operation']
