"""Conversions are compared on made-up images, and on up to four of a user's."""
import pathlib

import numpy as np
from PIL import Image
import pytest

from official_ext.serving.engines import examples
from official_ext.utils import command_line


def _write(folder, *sizes):
  """Writes an image of one gray value, its number, for each (width, height)."""
  for number, size in enumerate(sizes):
    Image.new('RGB', size, (number,) * 3).save(folder / f'{number:02d}.png')
  return folder


def _images(*sizes):
  return [np.full([*size, 3], number, np.uint8) for number, size in enumerate(sizes)]


def test_reads_four_images_at_equal_distances(tmp_path):
  (_write(tmp_path, *[(8, 6)] * 10) / 'notes.txt').write_text('no image')
  found = examples.read([tmp_path])
  assert [pathlib.Path(file).name for file in found] == ['00.png', '03.png', '06.png', '09.png']
  assert [image[0, 0, 0] for image in found.values()] == [0, 3, 6, 9]
  assert {image.shape for image in found.values()} == {(6, 8, 3)}
  assert list(examples.read([tmp_path / '05.png'])) == [f'{tmp_path}/05.png']
  assert not examples.read([])


def test_names_what_is_no_image(tmp_path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'broken.jpg').write_bytes(b'no image')
  for name, said in (('absent', 'no such file or folder'), ('empty', r'holds no image.*\.jpg, '),
                     ('broken.jpg', '')):
    with pytest.raises(command_line.CommandError, match=f'--images.*{name}.*{said}'):
      examples.read([tmp_path / name])


def test_names_images_for_which_the_saved_model_fails():
  good, bad = _images((6, 8), (1, 900))
  lengths = []

  def run(batch):
    lengths.append(len(batch))
    if batch.shape[2] > 800:
      raise ValueError('nothing is left\nof it')

  examples.check(run, {'good.png': good}, None)
  examples.check(run, {'good.png': good}, 2)
  assert lengths == [1, 2]
  with pytest.raises(command_line.CommandError, match=(
      r'--images: bad.png: the SavedModel fails for 900 x 1 pixels \(nothing is left\): leave')):
    examples.check(run, {'good.png': good, 'bad.png': bad}, None)


def _described(batches):
  """Returns the shape and the gray values of every batch behind the made-up ones."""
  return [(batch.shape[1:3], [int(image.mean()) for image in batch]) for batch in batches]


@pytest.mark.parametrize('sizes, batch_size, expected', [
    ([], None, []),
    ([(6, 8)], None, [((6, 8), [0])]),
    ([(6, 8)] * 4, None, [((6, 8), [0]), ((6, 8), [0, 1, 2, 3])]),
    ([(6, 8), (9, 7), (6, 8)], None,
     [((6, 8), [0, 2]), ((9, 7), [1]), ((6, 8), [0, 1, 2])]),
    ([(6, 8), (9, 7), (9, 7), (6, 8)], None,
     [((6, 8), [0]), ((6, 8), [0, 3]), ((9, 7), [1, 2]), ((6, 8), [0, 1, 2, 3])]),
    ([(6, 8)] * 3, 2, [((6, 8), [0, 1]), ((6, 8), [2, 2])]),
])
def test_images_of_one_size_are_a_batch(sizes, batch_size, expected):
  description = {'input_image_size': [16, 20], 'batch_size': batch_size}
  made_up = examples.batches(description)
  assert [len(batch) for batch in made_up] == ([2, 2] if batch_size else [1, 1, 4, 4])
  batches = examples.batches(description, _images(*sizes))
  assert _described(batches[len(made_up):]) == expected
  assert all(batch.dtype == np.uint8 for batch in batches)


def test_every_batch_is_compared_at_every_value():
  batches = _images((1, 1), (2, 2))
  calls = examples.calls(batches, ['budget'])
  assert [call.scalars for call in calls[::2]] == [
      {}, {'budget': 0.0}, {'budget': 0.25}, {'budget': 0.5}, {'budget': 0.75}]
  assert [call.images.shape for call in calls[:2]] == [(1, 1, 3), (2, 2, 3)]
  assert len(examples.calls(batches, [])) == 2
