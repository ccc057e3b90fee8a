"""The images of a step that spoils the loss are kept and named."""
import math

import record_files
import tensorflow as tf

from official_ext.dataloaders import dense_input
from official_ext.tasks import last_batch


def hashes(*ids):
  return dense_input.image_hash(tf.constant([str(number) for number in ids]))


def test_first_bad_batch_is_kept_until_the_end(tmp_path):
  batch = last_batch.LastBatch(2)
  update = tf.function(batch.update)
  files = [record_files.write(tmp_path / f'file{part}', [
      record_files.example(source_id=[str(number).encode()],
                           filename=[f'image{number}.png'.encode()])
      for number in range(300 * part, 300 * part + 300)]) for part in (0, 1)]
  steps = [((1, 2), 0.5), ((3, 599), 0.4), ((4, 301), math.nan), ((5, 6), math.inf)]
  expected = [(0, ['image1.png', 'image2.png']), (0, ['image3.png', 'image599.png']),
              (3, ['image301.png', 'image4.png']), (3, ['image301.png', 'image4.png'])]
  for step, ((ids, loss), (bad_step, names)) in enumerate(zip(steps, expected), 1):
    update(hashes(*ids), tf.constant(loss), tf.constant(step, tf.int64))
    found_step, found = batch.read()
    assert found_step == bad_step
    assert last_batch.image_names(found, files) == names


def test_other_sizes_of_batches_and_images_without_a_name(tmp_path):
  batch = last_batch.LastBatch(2)
  batch.update(hashes(7, 8), tf.constant(1.0), tf.constant(1))
  batch.update(hashes(9), tf.constant(math.nan), tf.constant(2))
  step, found = batch.read()
  file = record_files.write(tmp_path / 'a', [
      record_files.example(source_id=[b'8'], filename=None), b'\xff\xff'])
  assert step == 0 and last_batch.image_names(found, [file]) == ['8']
