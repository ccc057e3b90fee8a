"""The folder for TensorFlow Serving: versions, and requests that its definitions can read."""
from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory
import numpy as np
import tensorflow as tf

from official_ext.serving import input_types
from official_ext.serving import serving_layout

# Message -> field: (number, type), as in tensorflow_serving/apis.
MESSAGES = {
    'ModelSpec': {'name': (1, 'string'), 'signature_name': (3, 'string')},
    'Entry': {'key': (1, 'string'), 'value': (2, 'bytes')},
    'PredictRequest': {'model_spec': (1, 'ModelSpec'), 'inputs': (2, 'Entry')},
    'PredictLog': {'request': (1, 'PredictRequest')},
    'PredictionLog': {'predict_log': (6, 'PredictLog')},
}


def _prediction_log():
  """Returns the class of `PredictionLog`, made from its definition; a map is repeated entries."""
  field_type = descriptor_pb2.FieldDescriptorProto
  file = descriptor_pb2.FileDescriptorProto(name='log.proto', package='t', syntax='proto3')
  for name, fields in MESSAGES.items():
    message = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
      own = message.field.add(name=field, number=number, label=field_type.LABEL_OPTIONAL)
      if field == 'inputs':
        own.label = field_type.LABEL_REPEATED
      if kind in ('string', 'bytes'):
        own.type = getattr(field_type, f'TYPE_{kind.upper()}')
      else:
        own.type, own.type_name = field_type.TYPE_MESSAGE, f'.t.{kind}'
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName('t.PredictionLog'))


def test_versions_are_numbered(tmp_path):
  folder = tmp_path / 'models'
  assert serving_layout.next_version(folder) == folder / '1'
  for name in ('1', '10', 'notes', '3x'):
    (folder / name).mkdir(parents=True)
  assert serving_layout.next_version(folder) == folder / '11'


def test_requests_are_of_the_cheapest_and_the_dearest_images(tmp_path):
  random = np.random.default_rng(0)
  batches = [random.integers(0, 256, (2, 40, 50, 3), np.uint8) // divisor for divisor in (1, 9)]

  def run(images):  # Bright images are dear.
    return {'multiply_adds': tf.reduce_mean(tf.cast(images, tf.float32), (1, 2, 3))}

  serving_layout.write_warm_up(
      tmp_path, 'blood', 'serving_default', run, batches,
      lambda images: input_types.encode(images, 'image_tensor'))
  path = tmp_path / 'assets.extra' / 'tf_serving_warmup_requests'
  requests = [_prediction_log().FromString(record.numpy()).predict_log.request
              for record in tf.data.TFRecordDataset(str(path))]
  for request, images in zip(requests, (batches[1], batches[0]), strict=True):
    assert (request.model_spec.name, request.model_spec.signature_name) == (
        'blood', 'serving_default')
    entry, = request.inputs
    assert entry.key == 'inputs'
    tensor = tf.make_ndarray(type(tf.make_tensor_proto(0)).FromString(entry.value))
    np.testing.assert_array_equal(tensor, images)
