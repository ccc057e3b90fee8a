"""docs/tutorial.ipynb runs from the first cell to the last, and is kept without outputs."""
import json
import os
import pathlib
import re
import shutil

import nbclient
import nbformat
import pytest

from dataset_files import coco_annotation, coco_image, write_coco, write_image

DOCS = pathlib.Path(__file__).resolve().parents[1] / 'docs'
SMALL = ('task.model.input_size=[64,64,3],task.model.max_level=4,'
         'task.model.decoder.dyfpn.branches=[1x1,3x3],task.model.decoder.dyfpn.num_filters=8,'
         'task.init_checkpoint=null,task.model.backbone.type=resnet,'
         'task.model.backbone.resnet.model_id=10,task.model.backbone.resnet.depth_multiplier=0.25,'
         'task.train_data.global_batch_size=2,task.validation_data.global_batch_size=2')


@pytest.fixture
def notebook():
  return nbformat.read(DOCS / 'tutorial.ipynb', as_version=4)


def test_it_is_kept_without_outputs_and_its_links_exist(notebook):
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert not cell.outputs and cell.execution_count is None
    else:
      for target in re.findall(r'\]\(([^)]+)\)', cell.source):
        assert (DOCS / target).is_file(), target


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
  source, work = tmp_path / 'data', tmp_path / 'work'
  for number in range(1, 5):
    write_image(source / 'images' / f'{number}.jpg')
  write_coco(source, [coco_image(number, f'{number}.jpg') for number in range(1, 5)],
             [coco_annotation(number, number, [4, 4, 30, 30]) for number in range(1, 5)])
  # The commands are those of this checkout, whichever the environment has installed.
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, [
      str(DOCS.parent), os.environ.get('PYTHONPATH')])))
  monkeypatch.delenv('MPLBACKEND', raising=False)  # Jupyter shows pictures in the page.
  monkeypatch.setenv('TUTORIAL', json.dumps({
      'data': str(source), 'folder': str(work), 'steps': 1, 'overrides': SMALL}))
  shutil.copy(DOCS / 'tutorial.ipynb', tmp_path)
  nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3',
                          resources={'metadata': {'path': str(tmp_path)}}).execute()
  texts = [output.get('text', '') for cell in notebook.cells if cell.cell_type == 'code'
           for output in cell.outputs]
  together = '\n'.join(texts)
  assert "'step': 1" in together and 'Exported to' in together
  assert len(re.findall(r'\d+ found, \d\.\d+ \* 10\^9 multiply-adds', together)) == 3
  assert any(output.get('data', {}).get('image/png') for output in notebook.cells[-2].outputs)
  card = json.loads((work / 'saved_model' / 'model_card.json').read_text())
  assert card['result']['measured']['step'] == 1
