"""Operations know what an export will compute with fewer multiplications."""
import tensorflow as tf, tf_keras

from official_ext.ops import export_expectation
from official_ext.ops import winograd_conv


def test_the_saved_share_is_that_of_all_maps_where_exports_are_expected():
  maps = [tf_keras.Input([*size, 128]) for size in ((64, 80), (32, 40), (4, 5))]
  assert export_expectation.saved_share(maps) == 0
  with export_expectation.expected() as found:
    assert export_expectation.saved_share([maps[2]]) == 0
    assert export_expectation.saved_share([tf_keras.Input([64, 80, 128], dtype=tf.bfloat16)]) == 0
    assert not found.shares
    saved = sum(winograd_conv.saving((1, *size, 128), winograd_conv.Map(*size, (1, 1)), 128)
                for size in ((64, 80), (32, 40)))
    assert export_expectation.saved_share(maps) == saved / (9 * 128**2 * (5120 + 1280 + 20))
    assert 0.3 < export_expectation.saved_share(maps) < 0.75
    assert export_expectation.saved_share([tf_keras.Input([None, 80, 128])]) == 0
  assert found.shares and set(found.shares) == {saved / (9 * 128**2 * (5120 + 1280 + 20))}
  assert export_expectation.saved_share(maps) == 0


def test_transformed_kernels_are_counted_where_exports_are_expected():
  kernel = tf.ones([3, 3, 4, 6])
  export_expectation.weights_in_graph(kernel)
  with export_expectation.expected() as found:
    sizes = [export_expectation.weights_in_graph(kernel).numpy().nbytes for _ in range(2)]
  export_expectation.weights_in_graph(kernel)
  assert found.bytes == sum(sizes) == 2 * 36 * 4 * 6 * 4
