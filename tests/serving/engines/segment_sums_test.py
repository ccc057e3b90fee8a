"""Sums of segments of which some, or all, have no entry, as engines get them."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.serving.compiling import frozen
from official_ext.serving.engines import onnx_faults
from official_ext.serving.engines import portable

SEGMENTS = ([0, 0, 1], [1, 1, 3], [0, 2], [3], [])
COUNT = 4


def _sorted(values, segments):
  """Returns the sums, as many as there may be, and in one row more how many there are."""
  sums = tf.math.segment_sum(values, segments)
  count = tf.shape(sums)[0]
  return tf.concat([tf.pad(sums, [[0, COUNT - count], [0, 0]]),
                    tf.fill([1, 3], tf.cast(count, sums.dtype))], 0)


def _unsorted(values, segments):
  return tf.math.unsorted_segment_sum(values, segments, tf.shape(values)[1] + 1)


def _sparse(values, segments):
  rows = tf.range(tf.size(segments))[::-1]
  return tf.sparse.segment_sum(values, rows, segments, num_segments=COUNT)


def _batches(dtype):
  for segments in SEGMENTS:
    values = np.random.default_rng(0).integers(-9, 9, [len(segments), 3]).astype(dtype)
    yield values, np.array(segments, np.int32)


def _traced(function, dtype):
  return tf.function(lambda values, segments: {'sums': function(values, segments)}, [
      tf.TensorSpec([None, 3], dtype, name='values'),
      tf.TensorSpec([None], tf.int32, name='segments')], autograph=False)


FUNCTIONS = [(_sorted, 'float32'), (_sorted, 'int32'), (_unsorted, 'int32'),
             (_unsorted, 'float32'), (_sparse, 'float32')]


@pytest.mark.parametrize('function, dtype', FUNCTIONS)
def test_onnx_has_the_sums(function, dtype):
  tf2onnx, onnxruntime = (pytest.importorskip(name) for name in ('tf2onnx', 'onnxruntime'))
  run = _traced(function, dtype)
  with onnx_faults.mended():
    model, _ = tf2onnx.convert.from_function(run, run.input_signature, opset=17)
  session = onnxruntime.InferenceSession(model.SerializeToString())
  for values, segments in _batches(dtype):
    np.testing.assert_array_equal(
        session.run(None, {'values': values, 'segments': segments})[0],
        run(values, segments)['sums'], f'{segments}')


@pytest.mark.parametrize('function, dtype', FUNCTIONS)
def test_litert_has_the_sums(function, dtype):
  interpreter = pytest.importorskip('ai_edge_litert.interpreter')
  run = _traced(function, dtype)
  replaced = portable.replace(run.get_concrete_function())
  content = tf.lite.TFLiteConverter.from_concrete_functions([replaced], tf.Module()).convert()
  runner = interpreter.Interpreter(model_content=content).get_signature_runner()
  for values, segments in _batches(dtype):
    np.testing.assert_array_equal(
        runner(values=values, segments=segments)['sums'], run(values, segments)['sums'],
        f'{segments}')


@pytest.mark.parametrize('dtype', ['float32', 'int32'])
def test_sorted_sums_are_replaced(dtype):
  run = _traced(_sorted, dtype).get_concrete_function()
  replaced = frozen.rewrite(portable.replace(run), lambda graph_def, outputs: graph_def)
  assert portable.has(run, ['SegmentSum']) and not portable.has(replaced, ['SegmentSum'])
  for values, segments in _batches(dtype):
    given = tf.constant(values), tf.constant(segments)
    np.testing.assert_array_equal(replaced(*given)['sums'], run(*given)['sums'])
    np.testing.assert_array_equal(
        portable.sorted_segment_sum(*given), tf.math.segment_sum(*given))
