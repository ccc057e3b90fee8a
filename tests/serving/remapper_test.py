"""Without the remapper results stay the same, and only graphs of single images do without it."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.serving import remapper


def _is_fusing():
  return tf.config.optimizer.get_experimental_options().get('remapping', True)


@pytest.fixture
def keeps_options():
  yield
  tf.config.optimizer.set_experimental_options({'remapping': True})


@pytest.mark.parametrize('batch_size, expected', [(1, False), (2, True), (0, True)])
def test_only_single_images_run_without_the_remapper(batch_size, expected):
  for _ in range(2):
    with pytest.raises(KeyError), remapper.without_remapper(batch_size):
      assert _is_fusing() == expected
      raise KeyError
    assert _is_fusing()


def test_an_option_that_a_user_switched_off_stays_off(keeps_options):
  tf.config.optimizer.set_experimental_options({'remapping': False})
  with remapper.without_remapper(1):
    assert not _is_fusing()
  assert not _is_fusing()


def test_results_are_the_same():
  norm = tf_keras.layers.BatchNormalization(
      beta_initializer='random_normal', moving_mean_initializer='random_normal')
  model = tf_keras.Sequential([tf_keras.layers.Conv2D(6, 1), norm, tf_keras.layers.ReLU()])
  detect = tf.function(lambda images: model(images, training=False), autograph=False)
  image = tf.random.stateless_normal([1, 5, 7, 3], [1, 2])
  expected = detect(image)
  with remapper.without_remapper(1):
    found = detect(image)
  np.testing.assert_allclose(found, expected, 1e-5, 1e-5)
  assert np.ptp(expected) > 0
