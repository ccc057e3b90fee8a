"""A strategy is made of devices that are there; other options end with one sentence."""
from urllib import error

from official.core import config_definitions
import pytest
import tensorflow as tf

from official_ext.tasks import devices
from official_ext.utils import command_line


def make(**options):
  return devices.strategy(config_definitions.RuntimeConfig(**options))


@pytest.mark.parametrize('name, options, message', [
    ('foo', {}, "is 'foo'; allowed are off, one_device, mirrored, multi_"),
    (None, {}, 'is None; allowed are off'),
    ('mirrored', dict(num_gpus=3), 'num_gpus is 3, but TensorFlow sees 2 GPUs'),
    ('one_device', dict(num_gpus=2), 'distribution_strategy is one_device: '),
    ('off', dict(num_gpus=2), 'distribution_strategy is off: '),
    ('mirrored', dict(num_gpus=2, all_reduce_alg='x'), 'is mirrored: .*valid')])
def test_wrong_options_are_refused(monkeypatch, name, options, message):
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind] * 2)
  with pytest.raises(command_line.CommandError, match=message):
    make(distribution_strategy=name, **options)


def test_gpus_that_are_not_there_are_not_waited_for():
  for name in ('mirrored', 'one_device', 'multi_worker_mirrored'):
    with pytest.raises(command_line.CommandError, match='num_gpus is 99, .* runtime.num_gpus=0'):
      make(distribution_strategy=name, num_gpus=99)


def test_a_tpu_that_cannot_be_reached_is_named(monkeypatch):

  def fail(**_):
    raise error.URLError('unknown host')

  monkeypatch.setattr(tf.distribute.cluster_resolver, 'TPUClusterResolver', fail)
  with pytest.raises(command_line.CommandError, match="runtime.tpu 'far': .*unknown host"):
    make(distribution_strategy='tpu', tpu='far')


def test_the_processor_is_a_device():
  assert make(distribution_strategy='One_Device').num_replicas_in_sync == 1
  assert make(distribution_strategy='off') is tf.distribute.get_strategy()
