"""Sizes are those that a viewer shows, for every kind of file and every orientation."""
import pytest

import drawn_data
from official_ext.datasets import findings
from official_ext.datasets.images import image_decoding


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('encoding', [
    name for name, (suffix, *_) in drawn_data.ENCODINGS.items()
    if suffix.lower() in drawn_data.EXIF_SUFFIXES])
def test_the_size_is_that_of_the_turned_image(tmp_path, encoding, orientation):
  image = drawn_data.DrawnImage('im001', '', 30, 50, [], encoding, orientation)
  path = tmp_path / f'image{drawn_data.ENCODINGS[encoding][0]}'
  drawn_data.write_image(image, path)
  assert image_decoding.read_header(path).shown_size == (30, 50)


def test_what_is_no_image_is_named(tmp_path):
  (tmp_path / 'image.jpg').write_text('no image')
  with pytest.raises(findings.UnusableError, match='broken'):
    image_decoding.read_header(tmp_path / 'image.jpg')
