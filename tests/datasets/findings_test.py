"""Findings are counted and grouped by split, outcome and reason."""
from official_ext.datasets import findings as findings_lib


def some_findings() -> findings_lib.Findings:
  findings = findings_lib.Findings()
  for number in range(5):
    findings.add('val', 'dropped', 'box has no area', f'{number}.jpg', f'annotation {number}')
  findings.add('train', 'dropped', 'box has no area', 'a.jpg')
  findings.add('all', 'noted', 'there are masks', 'folder')
  return findings


def test_findings_are_grouped_and_counted():
  findings = some_findings()
  assert findings.count('dropped') == 6
  assert findings.count('noted') == 1 and not findings.count('problem')
  grouped = {(item['split'], item['reason']): item for item in findings.to_json()}
  assert len(grouped) == 3
  item = grouped['val', 'box has no area']
  assert item['count'] == len(item['items']) == 5
  assert item['items'][1] == dict(file='1.jpg', detail='annotation 1')


def test_a_line_names_the_first_files_of_each_reason(capsys):
  some_findings().say(shown=2)
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == ['all', 'train', 'val']
  assert lines[1].endswith('box has no area: a.jpg')
  assert lines[2].endswith('box has no area: 0.jpg annotation 0, 1.jpg annotation 1 and 3 more')
  assert lines[2].split()[:3] == ['val', 'dropped', '5']


def test_an_error_keeps_its_reason_and_its_detail():
  error = findings_lib.UnusableError('image file is broken', 'truncated: 3 bytes')
  assert (error.reason, error.detail) == ('image file is broken', 'truncated: 3 bytes')
  assert str(error) == 'image file is broken: truncated: 3 bytes'
  assert str(findings_lib.UnusableError('mask is empty')) == 'mask is empty'
