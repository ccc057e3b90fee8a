"""Images and padded ground-truth boxes, in the place of RetinaNet's assigned anchors or beside."""
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from official.common import dataset_fn
from official.vision.dataloaders import input_reader
from official.vision.dataloaders import input_reader_factory
from official.vision.dataloaders import retinanet_input
from official.vision.dataloaders import tf_example_decoder
from official.vision.dataloaders import tf_example_label_map_decoder
from official.vision.dataloaders import tfds_factory
from official.vision.ops import anchor
from official.vision.ops import preprocess_ops
import tensorflow as tf

Labels = Dict[str, Any]
_PADDING = -1


def _with_crowd(data: Mapping[str, tf.Tensor], is_crowd: tf.Tensor) -> Dict[str, tf.Tensor]:
  """Returns data with whether a box is a crowd as one more attribute of it, int32."""
  attributes = {**data.get('groundtruth_attributes', {}), 'is_crowd': tf.cast(is_crowd, tf.int32)}
  return {**data, 'groundtruth_attributes': attributes}


class _Unassigned:
  """Stands in for Model Garden's anchors and their labeler: boxes stay boxes."""

  def __init__(self, max_num_instances: int):
    self._size = max_num_instances

  def anchors(self, image_size: Sequence[int]) -> Mapping[str, tf.Tensor]:
    """Returns none."""
    del image_size
    return {}

  def label_anchors(self, anchor_boxes, boxes, classes, attributes) -> Tuple[Any, ...]:
    """Returns classes `[instances]` and boxes `[instances, 4]`, padded, without crowds."""
    del anchor_boxes
    is_object = attributes['is_crowd'] == 0
    boxes, classes = (
        preprocess_ops.clip_or_pad_to_fixed_size(x[is_object], self._size, _PADDING)
        for x in (boxes, tf.cast(classes[:, 0], tf.int32)))
    return classes, boxes, {}, None, None


class Parser(retinanet_input.Parser):
  """Model Garden's RetinaNet parser, augmentation and all, up to the assignment."""

  def __init__(self, output_size: Sequence[int], max_level: int, **kwargs):
    """Initializes the parser.

    Args:
      output_size: `[height, width]` that images are resized to.
      max_level: padded sizes are multiples of `2**max_level`.
      **kwargs: `dtype` of the images, and fields of `configs.detectors.DenseParserConfig`.
    """
    super().__init__(list(output_size), min_level=None, max_level=max_level, num_scales=None,
                     aspect_ratios=None, anchor_size=None, **kwargs)

  def _parse_train_data(self, data: Mapping[str, tf.Tensor]) -> Tuple[tf.Tensor, Labels]:
    image, labels = self._parse(super()._parse_train_data, data, self._skip_crowd_during_training)
    return image, labels

  def _parse_eval_data(self, data: Mapping[str, tf.Tensor]) -> Tuple[tf.Tensor, Labels]:
    image, labels = self._parse(super()._parse_eval_data, data, True)
    return image, labels

  def _parse(self, parse, data, skip_crowd):
    """Returns the image and its labels.

    Labels are `classes`, int32 `[instances]`, and `boxes`, float32 `[instances, 4]` in pixels
    of the network's input, both padded with -1; `image_info`; and in evaluation
    `groundtruths`, all as Model Garden's.
    """
    is_crowd = data['groundtruth_is_crowd']
    data = _with_crowd(data, is_crowd if skip_crowd else tf.zeros_like(is_crowd))
    unassigned = _Unassigned(self._max_num_instances)
    image, labels = parse(data, unassigned, unassigned.anchors)
    kept = {'classes': labels['cls_targets'], 'boxes': labels['box_targets'],
            'image_info': labels['image_info']}
    if 'groundtruths' in labels:
      kept['groundtruths'] = {name: value for name, value in labels['groundtruths'].items()
                              if name != 'attributes'}
    return image, kept


class _AnchorLabeler(anchor.AnchorLabeler):
  """Model Garden's labeler of anchors, which keeps the boxes that it assigned."""

  def __init__(self, max_num_instances: int, **kwargs):
    super().__init__(**kwargs)
    self._unassigned = _Unassigned(max_num_instances)
    self.boxes = None

  def label_anchors(self, anchor_boxes, boxes, classes, attributes) -> Tuple[Any, ...]:
    _, self.boxes, *_ = self._unassigned.label_anchors(None, boxes, classes, attributes)
    others = {name: value for name, value in attributes.items() if name != 'is_crowd'}
    return super().label_anchors(anchor_boxes, boxes, classes, others)


class AnchorParser(retinanet_input.Parser):
  """Model Garden's RetinaNet parser; `boxes` of its labels are what a `Parser` of ours has."""

  def _parse_train_data(self, data: Mapping[str, tf.Tensor]) -> Tuple[tf.Tensor, Labels]:
    return self._parse(super()._parse_train_data, data)

  def _parse_eval_data(self, data: Mapping[str, tf.Tensor]) -> Tuple[tf.Tensor, Labels]:
    return self._parse(super()._parse_eval_data, data)

  def _parse(self, parse, data):
    labeler = _AnchorLabeler(
        self._max_num_instances, match_threshold=self._match_threshold,
        unmatched_threshold=self._unmatched_threshold, box_coder_weights=self._box_coder_weights)
    image, labels = parse(_with_crowd(data, data['groundtruth_is_crowd']), labeler)
    if 'groundtruths' in labels and not data.get('groundtruth_attributes'):
      del labels['groundtruths']['attributes']
    return image, {**labels, 'boxes': labeler.boxes}


def options(params: Any) -> Dict[str, Any]:
  """Returns the options of a parser's config, as arguments of the parser."""
  return {name: getattr(params, name) for name in params.as_dict()
          if name not in ('num_channels', 'aug_policy')}  # Not read by Model Garden either.


def _decoder(params: Any) -> Any:
  if params.tfds_name:
    return tfds_factory.get_detection_decoder(params.tfds_name)
  options = params.decoder.get()
  if params.decoder.type == 'simple_decoder':
    return tf_example_decoder.TfExampleDecoder(regenerate_source_id=options.regenerate_source_id)
  return tf_example_label_map_decoder.TfExampleDecoderLabelMap(
      label_map=options.label_map, regenerate_source_id=options.regenerate_source_id)


def read(params: Any, parser: retinanet_input.Parser,
         context: Optional[tf.distribute.InputContext] = None) -> tf.data.Dataset:
  """Reads batches.

  Args:
    params: a data config of Model Garden's RetinaNet, or of `configs.detectors`.
    parser: makes an image and its labels of an example.
    context: which part of the data this host reads.

  Returns:
    A dataset of images `[batch, height, width, 3]` and labels, as the parser gives them.
  """
  reader = input_reader_factory.input_reader_generator(
      params, dataset_fn=dataset_fn.pick_dataset_fn(params.file_type),
      decoder_fn=_decoder(params).decode, combine_fn=input_reader.create_combine_fn(params),
      parser_fn=parser.parse_fn(params.is_training))
  return reader.read(input_context=context)
