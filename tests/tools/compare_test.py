"""The comparison has every detector's boxes where they are, in its own column."""
import json
import types

import colored_detector
import numpy as np
from PIL import Image
import pytest

from official_ext.tools import compare
from official_ext.tools import tradeoff
from official_ext.utils import command_line
from official_ext.visualization import boxes


def annotations(drawn):
  """COCO annotations of the rectangles of `colored_detector.write_images`."""
  numbered = [(number, color, box) for number, objects in enumerate(drawn.values(), 1)
              for color, box in objects]
  return {
      'images': [{'id': number, 'file_name': name, 'width': 64, 'height': 48}
                 for number, name in enumerate(drawn, 1)],
      'annotations': [
          {'id': identifier, 'image_id': number, 'category_id': 1 + (color == 'green'),
           'bbox': box, 'area': box[2] * box[3], 'iscrowd': 0}
          for identifier, (number, color, box) in enumerate(numbered, 1)],
      'categories': [{'id': 1, 'name': 'red'}, {'id': 2, 'name': 'green'}]}


def test_boxes_stand_in_the_column_of_their_detector(tmp_path):
  drawn = colored_detector.write_images(tmp_path / 'images')
  (tmp_path / 'truth.json').write_text(json.dumps(annotations(drawn)))
  classes = {'right': (1, 2), 'wrong': (2, 1)}
  for name, (red, green) in classes.items():
    path = colored_detector.save(tmp_path / name / 'saved_model', red, green)
    (path / 'export.json').write_text(json.dumps({'gmac': {'static': 1.0, 'maximum': 1.0}}))
  compare.main([
      *(f'--saved_model={tmp_path / name / "saved_model"}' for name in classes),
      f'--images={tmp_path / "images"}', f'--annotation_file={tmp_path / "truth.json"}',
      '--number=2', f'--output_dir={tmp_path / "out"}'])
  points = json.loads((tmp_path / 'out/compare.json').read_text())
  assert [(point['model'], round(point['ap'], 3), point['gmac_mean']) for point in points] == [
      ('right/saved_model', 1.0, 1.0), ('wrong/saved_model', 0.0, 1.0)]
  assert (tmp_path / 'out/tradeoff.png').is_file()
  pictures = sorted((tmp_path / 'out/detections').iterdir())
  assert [picture.name for picture in pictures] == ['001_1.jpg', '002_3.jpg']  # first and last
  page = (tmp_path / 'out/compare.html').read_text()
  assert page.count('<img') == 3 and 'right/saved_model' in page
  pixels = np.asarray(Image.open(pictures[0]))
  enlarged, factor = boxes.fit(
      np.asarray(Image.open(tmp_path / 'images/1.png')), 480)
  corners = np.array([[y, x, y + h, x + w] for _, (x, y, w, h) in drawn['1.png']]) * factor
  for column, (red, green) in enumerate(classes.values()):
    names = {1: 'red', 2: 'green'}
    expected = boxes.draw_boxes(enlarged, corners, [names[red], names[green]], [0.9, 0.9])
    left, top = 6 + column * 486, 6 + 22  # margins of the grid, and its titles
    found = pixels[top:top + 360, left:left + 480].astype(int)
    is_drawn = np.any(expected != enlarged, axis=-1)
    assert np.mean(np.abs(found - expected)[~is_drawn]) < 5  # JPEG
    assert np.mean(np.abs(found - expected)[is_drawn]) < 40
    assert np.mean(np.abs(found - enlarged)[is_drawn]) > 60


@pytest.mark.parametrize('command', [compare.main, tradeoff.main])
def test_what_is_not_evaluated_is_named(command, tmp_path, capsys):
  drawn = colored_detector.write_images(tmp_path / 'images')
  content = annotations(drawn)
  content['images'][0]['file_name'] = 'absent.png'
  del content['annotations'][-1]['bbox']
  (tmp_path / 'truth.json').write_text(json.dumps(content))
  path = colored_detector.save(tmp_path / 'saved_model', 1, 2)
  (path / 'export.json').write_text(json.dumps({'gmac': {'static': 1.0, 'maximum': 1.0}}))
  command([f'--saved_model={path}', f'--images={tmp_path / "images"}',
           f'--annotation_file={tmp_path / "truth.json"}', f'--output_dir={tmp_path / "out"}'])
  said = capsys.readouterr().out
  assert 'Left out, not in the annotation file: 1 (' in said and '1.png' in said
  assert 'In the annotation file but not there: 1 (absent.png)' in said
  assert 'Not evaluated, box' in said


def test_chosen_channels_are_drawn_for_every_level():
  levels = {'3': np.full([4, 6, 2], [1.0, -3.0]), '4': np.full([2, 3, 2], [2.0, -5.0])}
  features = types.SimpleNamespace(levels=lambda *_: levels, offsets=lambda *_: {})
  image = np.zeros([8, 12, 3], np.uint8)
  plots = compare.draw_pyramid(features, None, image, channels=[1])
  assert list(plots) == ['levels', 'channel_1']
  for part, means in (('levels', (2, 3.5)), ('channel_1', (3, 5))):
    drawn = [axis.images[0].get_array() for axis in plots[part].axes[1:3]]
    assert [array.shape for array in drawn] == [(4, 6), (2, 3)]
    assert tuple(array.mean() for array in drawn) == means
  with pytest.raises(command_line.CommandError, match='has 2, but this neck has .* 0 to 1'):
    compare.draw_pyramid(features, None, image, channels=[2])


@pytest.mark.parametrize('option, said', [
    ('--channels=1', 'necks of --trained'), ('--score_threshold=nan', 'not a number from 0 to 1'),
    ('--score_threshold=40', 'not a number from 0 to 1')])
def test_options_that_cannot_take_effect_are_refused(option, said, capsys):
  with pytest.raises(SystemExit) as caught:
    compare.main(['--saved_model=a', '--images=b', '--output_dir=c', option])
  assert caught.value.code == 2 and said in capsys.readouterr().err
