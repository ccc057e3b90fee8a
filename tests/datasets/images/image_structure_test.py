"""A whole file is told by its structure, a damaged one is not; records stay the same."""
import io

import numpy as np
from PIL import Image
import pytest

from official_ext.datasets import findings
from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_decoding
from official_ext.datasets.images import image_reading
from official_ext.datasets.images import image_structure

PIXELS = np.random.default_rng(0).integers(0, 255, [40, 60, 3], np.uint8)


def encoded(kind, mode='RGB', **options) -> bytes:
  file = io.BytesIO()
  Image.fromarray(PIXELS).convert(mode).save(file, kind, **options)
  return file.getvalue()


JPEGS = {'baseline': encoded('JPEG'), 'gray': encoded('JPEG', 'L'),
         'progressive': encoded('JPEG', progressive=True),
         'comment': encoded('JPEG', comment=b'\xff\xd9 in a comment'),
         'restarts': encoded('JPEG', restart_marker_blocks=2)}
PNGS = {'rgb': encoded('PNG'), 'gray': encoded('PNG', 'L'), 'palette': encoded('PNG', 'P'),
        'alpha': encoded('PNG', 'RGBA')}


@pytest.mark.parametrize('name', JPEGS)
def test_a_jpeg_is_whole_with_its_end_only(name):
  content = JPEGS[name]
  assert image_structure.whole_jpeg(content)
  for length in (0, 1, 2, 3, 11, 20, len(content) // 2, len(content) - 2, len(content) - 1):
    assert not image_structure.whole_jpeg(content[:length])
  assert not image_structure.whole_jpeg(content + b'data of a camera')
  assert not image_structure.whole_jpeg(b'\0' + content)
  # The length of the first segment is wrong.
  assert not image_structure.whole_jpeg(content[:5] + b'\x31' + content[6:])


def test_kinds_of_jpeg_that_not_every_decoder_reads_are_not_called_whole():
  content, frame = JPEGS['baseline'], JPEGS['baseline'].index(b'\xff\xc0')
  assert not image_structure.whole_jpeg(encoded('JPEG', 'CMYK'))
  for place, value in ((frame + 1, 0xc9), (frame + 4, 12), (frame + 9, 2)):
    changed = bytearray(content)
    changed[place] = value
    assert not image_structure.whole_jpeg(bytes(changed))


def with_exif() -> bytes:
  exif = Image.Exif()
  exif[0x0112] = 6
  return encoded('JPEG', exif=exif)


def test_headers_that_pillow_reads_in_the_same_way_are_plain():
  for content in (*JPEGS.values(), encoded('JPEG', icc_profile=bytes(300)),
                  encoded('JPEG', dpi=(72, 72))):
    found = image_structure.whole_jpeg(content)
    assert found.is_plain and found.size == Image.open(io.BytesIO(content)).size
  assert not image_structure.whole_jpeg(with_exif()).is_plain


def test_headers_that_pillow_refuses_are_not_plain():
  content = JPEGS['baseline']
  tables, frame = content.index(b'\xff\xdb'), content.index(b'\xff\xc0')
  short = b'\xff\xe0\0\x08JFIF\0\1'
  for changed in (content[:tables + 4] + b'\x10' + content[tables + 5:],  # 16 bits, 8 are there
                  content[:frame + 5] + bytes(4) + content[frame + 9:],  # 0 x 0 pixels
                  content[:2] + short + content[2:]):
    found = image_structure.whole_jpeg(changed)
    assert not found.is_plain
    with pytest.raises(findings.UnusableError):
      image_decoding.decode(changed, image_files.MAX_PIXELS, needs_pixels=False)


def test_any_bytes_may_be_damaged():
  content, rng = bytearray(JPEGS['baseline'][:700] + b'\xff\xd9'), np.random.default_rng(1)
  for _ in range(3000):
    changed = content.copy()
    for place in rng.integers(2, 640, 3):
      changed[place] = rng.choice([0, 1, 255, 0xc0, 0xdb, 0xda])
    found = image_structure.whole_jpeg(bytes(changed[:rng.integers(4, 702)]) + b'\xff\xd9')
    assert found is None or not found.is_plain or min(found.size) > 0


@pytest.mark.parametrize('name', PNGS)
def test_a_png_is_whole_if_every_checksum_is_right(name):
  content = PNGS[name]
  assert image_structure.is_whole_png(content)
  for place in np.linspace(0, len(content) - 1, 40).astype(int):
    changed = bytearray(content)
    changed[place] ^= 4
    assert not image_structure.is_whole_png(bytes(changed)), place
    assert not image_structure.is_whole_png(content[:place])


@pytest.mark.parametrize('content', [*JPEGS.values(), *PNGS.values(), encoded('JPEG', 'CMYK'),
                                     encoded('GIF'), encoded('JPEG') + b'more', with_exif()])
def test_a_record_is_the_same_whether_pixels_are_needed_or_not(tmp_path, content):
  path = tmp_path / 'a'
  path.write_bytes(content)
  reader = image_reading.ImageReader()
  lazy, full = reader.read(path, needs_pixels=False), reader.read(path)
  assert lazy.encode() == full.encode() and lazy.changes == full.changes
  np.testing.assert_array_equal(lazy.pixels, full.pixels)


def test_what_is_not_whole_is_decoded_and_refused(tmp_path, monkeypatch):
  for content in (JPEGS['baseline'][:-300], PNGS['rgb'][:-300], b'', b'\xff\xd8\xff\xd9'):
    (tmp_path / 'a').write_bytes(content)
    with pytest.raises(findings.UnusableError, match='broken'):
      image_reading.ImageReader().read(tmp_path / 'a', needs_pixels=False)
  with pytest.raises(findings.UnusableError, match='too large'):
    image_decoding.decode(JPEGS['baseline'], 60 * 40 - 1, needs_pixels=False)
  assert image_decoding.decode(JPEGS['baseline'], image_files.MAX_PIXELS, False).pixels is None
