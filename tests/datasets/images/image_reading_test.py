"""Every image file is read alike for training and prediction, whatever its kind."""
import io
import os
import pathlib
import struct

import numpy as np
from official.vision.dataloaders import tf_example_decoder
from PIL import Image
from PIL import PngImagePlugin
import pytest
import tensorflow as tf

import dataset_files
import image_kinds
from official_ext.datasets import findings
from official_ext.datasets.images import image_orientation
from official_ext.datasets.images import image_reading


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
  """A folder with an image file of every kind, and what convert makes of it."""
  folder = tmp_path_factory.mktemp('kinds')
  (folder / 'images').mkdir()
  images, boxes = [], []
  for number, (name, kind) in enumerate(image_kinds.KINDS.items(), 1):
    kind.write(folder / 'images' / (name + kind.suffix))
    images.append(dataset_files.coco_image(number, name + kind.suffix, image_kinds.SIZE))
    boxes.append(dataset_files.coco_annotation(number, number, list(image_kinds.BOX)))
  dataset_files.write_coco(folder, images, boxes, splits=('train', 'val'))
  return folder / 'images', dataset_files.convert(folder)


@pytest.mark.parametrize('name', image_kinds.KINDS)
def test_training_and_prediction_see_the_picture_that_was_drawn(converted, name):
  folder, (records, _, _, told) = converted
  kind = image_kinds.KINDS[name]
  record = records['train'][1 + list(image_kinds.KINDS).index(name)]['image']
  read = image_reading.ImageReader().read(folder / (name + kind.suffix))
  np.testing.assert_array_equal(read.pixels, record)
  expected = image_kinds.draw(np.broadcast_to(kind.background, 3), kind.thing)
  difference = np.abs(record.astype(int) - expected)
  difference[0, :2] = 0  # Where there is no number, there is no right color.
  assert difference.max() <= kind.tolerance
  reasons = [reason for outcome in ('fixed', 'noted')
             for reason, files in dataset_files.by_reason(told, outcome, 'train').items()
             if name + kind.suffix in files]
  assert any(kind.told in reason for reason in reasons) if kind.told else not reasons


def test_no_number_is_dark_and_infinity_as_bright_as_the_brightest(converted):
  pixels = image_reading.ImageReader().read(converted[0] / 'float_nan.tif').pixels
  assert pixels[0, :2, 0].tolist() == [64, 191]


def test_a_jpeg_is_decoded_as_in_training_not_as_by_pillow(tmp_path):
  dataset_files.write_image(tmp_path / 'a.jpg', size=(64, 64), quality=60)
  content = (tmp_path / 'a.jpg').read_bytes()
  feature = {'image/encoded': content, 'image/source_id': b'1'}
  example = tf.train.Example(features=tf.train.Features(feature={
      name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
      for name, value in feature.items()}))
  trained = tf_example_decoder.TfExampleDecoder().decode(example.SerializeToString())['image']
  read = image_reading.ImageReader().read(tmp_path / 'a.jpg')
  np.testing.assert_array_equal(read.pixels, trained)
  assert read.encode() == (content, 'jpg', (64, 64))
  assert (read.pixels != np.asarray(Image.open(tmp_path / 'a.jpg'))).any()


def _write_turned(path: pathlib.Path, orientation: int, shown: np.ndarray, **options) -> None:
  """Writes a file that viewers show as given."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored = Image.fromarray(shown)
  # Pillow's methods undo what an orientation asks for; they are not those that the reader uses.
  undo = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE',
          6: 'ROTATE_90', 7: 'TRANSVERSE', 8: 'ROTATE_270'}.get(orientation)
  stored = stored.transpose(Image.Transpose[undo]) if undo else stored
  stored.save(path, exif=exif.tobytes(), **options)


_SHOWN = image_kinds.draw(image_kinds.BACKGROUND, image_kinds.OBJECT)


@pytest.mark.parametrize('suffix, options', [
    ('.jpg', {'quality': 95, 'subsampling': 0}), ('.png', {}), ('.webp', {'lossless': True}),
    ('.tif', {})])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_pictures_are_read_as_a_viewer_shows_them(tmp_path, orientation, suffix, options):
  path = tmp_path / f'a{suffix}'
  _write_turned(path, orientation, _SHOWN, **options)
  tolerance = 4 if suffix == '.jpg' else 0
  reader = image_reading.ImageReader()
  read = reader.read(path)
  assert read.pixels.shape == _SHOWN.shape
  assert np.abs(read.pixels.astype(int) - _SHOWN).max() <= tolerance
  encoded = read.encode()
  decoded = tf.io.decode_image(encoded.content, channels=3)
  np.testing.assert_array_equal(decoded, read.pixels)
  assert Image.open(io.BytesIO(encoded.content)).getexif().get(0x0112, 1) == 1
  assert read.exif_orientation == (None if orientation == 1 else 'applied')
  assert [change.outcome for change in read.changes if 'EXIF' in change.reason] == (
      ['noted'] * (orientation > 1))


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif'])
@pytest.mark.parametrize('orientation', range(5, 9))
def test_pictures_stay_as_stored_if_their_annotations_are_for_the_stored_pixels(
    tmp_path, orientation, suffix):
  path = tmp_path / f'a{suffix}'
  _write_turned(path, orientation, _SHOWN)
  width, height = image_kinds.SIZE
  reader = image_reading.ImageReader()
  stored = reader.read(path, image_orientation.Listed((height, width)))
  assert stored.pixels.shape == (width, height, 3) and stored.exif_orientation == 'ignored'
  x, y, box_width, box_height = image_kinds.BOX
  x, y = (x + box_width // 2, y + box_height // 2)
  places = {5: (y, x), 6: (y, width - 1 - x), 7: (height - 1 - y, width - 1 - x),
            8: (height - 1 - y, x)}
  column, row = places[orientation]
  np.testing.assert_allclose(stored.pixels[row, column], image_kinds.OBJECT, atol=40)
  assert Image.open(io.BytesIO(stored.encode().content)).getexif().get(0x0112, 1) == 1
  turned = reader.read(path, image_orientation.Listed((width, height)))
  assert turned.pixels.shape == (height, width, 3) and turned.exif_orientation == 'applied'
  assert [change.outcome for change in turned.changes if 'turned' in change.reason] == ['fixed']


def test_a_stored_jpeg_loses_its_orientation_and_no_pixel(tmp_path):
  _write_turned(tmp_path / 'a.jpg', 6, _SHOWN)
  content = (tmp_path / 'a.jpg').read_bytes()
  read = image_reading.ImageReader().read(
      tmp_path / 'a.jpg', image_orientation.Listed(image_kinds.SIZE[::-1]))
  encoded = read.encode()
  assert encoded.encoding == 'jpg' and len(encoded.content) < len(content)
  np.testing.assert_array_equal(tf.io.decode_image(encoded.content), tf.io.decode_image(content))


@pytest.mark.parametrize('others, expected', [
    ([True, True, False], 'applied'), ([False, False, True], 'ignored'), ([True, False], 'applied'),
    ([], 'applied')])
def test_most_images_decide_where_the_size_cannot_tell(tmp_path, others, expected):
  listed = []
  for number, is_turned in enumerate(others):
    _write_turned(tmp_path / f'{number}.jpg', 6, _SHOWN)
    size = image_kinds.SIZE if is_turned else image_kinds.SIZE[::-1]
    listed.append((tmp_path / f'{number}.jpg', image_orientation.Listed(size)))
  dataset_files.write_image(tmp_path / 'upright.jpg')
  (tmp_path / 'broken.jpg').write_bytes(b'')
  listed += [(tmp_path / name, image_orientation.Listed((9, 9)))
             for name in ('upright.jpg', 'broken.jpg', 'missing.jpg')]
  square = np.zeros([20, 20, 3], np.uint8)
  square[:5] = 255
  _write_turned(tmp_path / 'square.png', 3, square)
  reader = image_reading.ImageReader(all_listed=lambda: listed)
  read = reader.read(tmp_path / 'square.png', image_orientation.Listed((20, 20)))
  assert read.exif_orientation == expected
  assert read.pixels[0, 0, 0] == (255 if expected == 'applied' else 0)
  assert [change.outcome for change in read.changes] == ['noted']


def test_what_convert_has_written_decides_before_all_else(tmp_path):
  _write_turned(tmp_path / 'a.png', 6, _SHOWN)
  for choice, size in (('ignored', image_kinds.SIZE), ('applied', image_kinds.SIZE[::-1])):
    entry = dict(width=size[0], height=size[1], exif_orientation=choice)
    read = image_reading.ImageReader().read(tmp_path / 'a.png', image_orientation.listed(entry))
    assert read.exif_orientation == choice


def _damage(content: bytes) -> dict[str, bytes]:
  return {'empty': b'', 'text': b'<!DOCTYPE html>', 'cut': content[:len(content) // 2],
          'header only': content[:30]}


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'bits16', 'gif', 'webp', 'bmp', 'rgb12_tiff',
                                  'float', 'float_rgb', 'one_bit_tiff'])
def test_damaged_files_are_named_as_broken(tmp_path, kind):
  path = tmp_path / f'a{image_kinds.KINDS[kind].suffix}'
  image_kinds.KINDS[kind].write(path)
  for damage, content in _damage(path.read_bytes()).items():
    path.write_bytes(content)
    with pytest.raises(findings.UnusableError, match='image file is broken: .') as error:
      image_reading.ImageReader().read(path)
    assert '\n' not in str(error.value), damage
    if damage == 'text':
      assert 'begins with' in str(error.value) and 'DOCTYPE' in str(error.value)


def test_random_damage_never_ends_in_anything_but_a_sentence(tmp_path):
  random = np.random.default_rng(0)
  reader = image_reading.ImageReader(max_pixels=10**6)
  for name, kind in image_kinds.KINDS.items():
    path = tmp_path / (name + kind.suffix)
    kind.write(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(6):
      damaged = whole.copy()
      places = random.integers(0, min(len(whole), 200), 4)
      damaged[places] = random.integers(0, 256, 4)
      path.write_bytes(damaged.tobytes())
      try:
        pixels = reader.read(path).pixels
      except findings.UnusableError as error:
        assert '\n' not in str(error)
      else:
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


def test_files_that_cannot_be_opened_are_named_as_what_they_are(tmp_path, monkeypatch):
  reader = image_reading.ImageReader()
  with pytest.raises(findings.UnusableError, match='image file is missing'):
    reader.read(tmp_path / 'a.jpg')
  (tmp_path / 'b.jpg').symlink_to('nowhere')
  with pytest.raises(findings.UnusableError, match='image file is missing'):
    reader.read(tmp_path / 'b.jpg')
  (tmp_path / 'c.jpg').mkdir()
  os.mkfifo(tmp_path / 'd.jpg')
  for name in ('c.jpg', 'd.jpg'):
    with pytest.raises(findings.UnusableError, match='folder or no regular file'):
      reader.read(tmp_path / name)
  dataset_files.write_image(tmp_path / 'e.jpg')
  for error, words in ((PermissionError(13, 'Permission denied'), 'may not be read: Permission'),
                       (OSError(5, 'Input/output error'), 'cannot be read: Input')):

    def fail(path, error=error):
      raise error

    monkeypatch.setattr(pathlib.Path, 'read_bytes', fail)
    with pytest.raises(findings.UnusableError, match=words):
      reader.read(tmp_path / 'e.jpg')


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'rgb16', 'gif', 'rgb12_tiff', 'float_rgb'])
def test_too_large_is_told_with_the_limit(tmp_path, kind, monkeypatch):
  path = tmp_path / f'a{image_kinds.KINDS[kind].suffix}'
  image_kinds.KINDS[kind].write(path)
  pixels = image_kinds.SIZE[0] * image_kinds.SIZE[1]
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)  # Pillow's own limit does not count.
  image_reading.ImageReader(pixels).read(path)
  with pytest.raises(findings.UnusableError,
                     match='image is too large: 48 x 40 are 1,920 pixels, the limit is 1,919; cut '
                     'it into tiles, or give a larger --max_pixels'):
    image_reading.ImageReader(pixels - 1).read(path)
  assert Image.MAX_IMAGE_PIXELS == 100


def test_the_header_alone_tells_that_an_image_is_too_large(tmp_path, monkeypatch):
  monkeypatch.setattr(PngImagePlugin.PngImageFile, 'load', lambda image: pytest.fail('decoded'))
  header = struct.pack('>IIBBBBB', 20000, 12000, 8, 0, 0, 0, 0)
  (tmp_path / 'slide.png').write_bytes(
      b'\x89PNG\r\n\x1a\n' + image_kinds.png_chunk(b'IHDR', header) +
      image_kinds.png_chunk(b'IDAT', b'') + image_kinds.png_chunk(b'IEND', b''))
  with pytest.raises(findings.UnusableError, match='240,000,000 pixels, the limit is 178,956,970'):
    image_reading.ImageReader().read(tmp_path / 'slide.png')


def test_kinds_that_cannot_be_read_are_named(tmp_path):
  (tmp_path / 'a.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(100))
  with pytest.raises(findings.UnusableError, match='cannot be read: HEIC; save it as JPEG or PNG'):
    image_reading.ImageReader().read(tmp_path / 'a.heic')
  planes = image_kinds.draw((500,) * 3, (3000,) * 3, np.uint16)
  tifffile = pytest.importorskip('tifffile')
  tifffile.imwrite(tmp_path / 'planes.tif', np.moveaxis(planes, -1, 0), photometric='rgb',
                   planarconfig='separate')
  with pytest.raises(findings.UnusableError, match='colors in separate planes; write it inter'):
    image_reading.ImageReader().read(tmp_path / 'planes.tif')
  bands = np.zeros([20, 30, 5], np.uint16)
  tifffile.imwrite(tmp_path / 'bands.tif', bands, photometric='minisblack', planarconfig='contig')
  with pytest.raises(findings.UnusableError, match='more than four channels: 5'):
    image_reading.ImageReader().read(tmp_path / 'bands.tif')


@pytest.mark.parametrize('orientation', range(1, 9))
def test_deep_colors_are_turned_as_well(tmp_path, orientation):
  tifffile = pytest.importorskip('tifffile')
  shown = image_kinds.draw((514, 514, 514), (3855, 0, 514), np.uint16)
  stored = {1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1],
            5: shown.swapaxes(0, 1), 6: np.rot90(shown), 7: shown.swapaxes(0, 1)[::-1, ::-1],
            8: np.rot90(shown, -1)}[orientation]
  tifffile.imwrite(tmp_path / 'a.tif', stored, photometric='rgb',
                   extratags=[(0x0112, 'H', 1, orientation, True)])
  read = image_reading.ImageReader().read(tmp_path / 'a.tif')
  expected = image_kinds.draw((32, 32, 32), (240, 0, 32))
  np.testing.assert_array_equal(read.pixels, expected)


def test_a_conversion_asks_the_other_images_of_its_file(tmp_path):
  """A square photograph is annotated like the wide ones beside it, which convert notes."""
  (tmp_path / 'images').mkdir()
  _write_turned(tmp_path / 'images' / 'wide.jpg', 6, _SHOWN)
  square = np.zeros([20, 20, 3], np.uint8)
  square[:5] = 255
  _write_turned(tmp_path / 'images' / 'square.png', 6, square)
  for size, first_row in ((image_kinds.SIZE[::-1], False), (image_kinds.SIZE, True)):
    dataset_files.write_coco(
        tmp_path, [dataset_files.coco_image(1, 'square.png', (20, 20)),
                   dataset_files.coco_image(2, 'wide.jpg', size)], [])
    converted = dataset_files.convert(tmp_path)
    pixels = converted.records['train'][1]['image']
    assert (pixels[0] == 255).all() == first_row
    told = dataset_files.by_reason(converted.findings, 'noted', 'train')
    assert ['square.png'] in [files for reason, files in told.items() if 'EXIF' in reason]
    choices = [entry['exif_orientation'] for entry in converted.coco['train']['images']]
    assert choices == (['applied'] * 2 if first_row else ['ignored'] * 2)
