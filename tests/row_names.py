"""Texts of the rows of the papers' tables, which the comments of the YAML files must have."""

DYFPN = (
    'Table 1, row R50 FPN', 'Table 1, row R50 inception FPN', 'Table 1, row R50 DyFPN',
    'Table 1, row R101 FPN', 'Table 1, row R101 inception FPN', 'Table 1, row R101 DyFPN',
    'Table 2, row FPN', 'Table 2, row 1x1, 3x3.', 'Table 2, row 1x1, 3x3, 5x5.',
    'Table 2, row 1x1, 3x3 of dilation 1, 2, 3.', 'Table 2, last row', 'plain 3x3 laterals',
    'plain 5x5 laterals', 'plain 7x7 laterals', 'Table 3, row A, GRU upward',
    'Table 3, row A, GRU downward', 'Table 3, row A, CNN', 'Table 3, row B, GRU upward',
    'Table 3, row B, GRU downward', 'Table 3, row B, CNN', 'Table 5, row A, R/R',
    'Table 5, row A, G/R', 'Table 5, row A, G/G', 'Table 5, row B, R/R', 'Table 5, row B, C/R',
    'Table 5, row B, C/C', 'Table 6, row Raw', 'Table 6, row I:', 'Table 6, row II:',
    'Table 6, row III:', 'Table 6, row IV:', 'Figure 5, Faster R-CNN R50 FPN',
    'Figure 5, Faster R-CNN R50 inception FPN', 'Figure 5, Cascade R-CNN R50, FPN',
    'Figure 5, Cascade R-CNN R50, inception', 'Figure 5, Cascade R-CNN R101, FPN',
    'Figure 5, Cascade R-CNN R101, inception', 'Figure 5, Mask R-CNN R50, FPN',
    'Figure 5, Mask R-CNN R50, inception', 'Figure 5, Mask R-CNN R101, FPN',
    'Figure 5, Mask R-CNN R101, inception')

DRFPN = (
    *(f'Table 1, row {detector}, {neck}' for neck in ('base', 'DRFPN') for detector in (
        'RetinaNet R50 1x', 'FCOS R50 1x', 'Faster R-CNN R50 1x', 'Faster R-CNN R101 1x',
        'Faster R-CNN R101 2x', 'Faster R-CNN X101-64x4d 1x',
        'Mask R-CNN R50 1x', 'Mask R-CNN R101 1x', 'Mask R-CNN R101 2x',
        'Cascade Mask R-CNN R50 1x', 'Cascade Mask R-CNN R101 1x')),
    *(f'Table {row}' for row in (
        '2, row baseline', '2, row SRB.', '2, row CRB.', '2, row PPM;', '2, row SRB+CRB;',
        '2, row SRB+PPM;', '2, row CRB+PPM;', '2, row SRB+CRB+PPM', '3, row TD;', '3, row TD+BU.',
        '3, row TD+PPM.', '3, row TD+BU+PPM', '3, row TD[SRB+CRB].', '3, row TD[SRB+CRB]+PPM',
        '3, row TD[CRB]+BU[SRB].', '3, row TD[CRB]+BU[SRB]+PPM', '3, row TD[SRB]+BU[CRB];',
        '3, row TD[SRB]+BU[CRB]+PPM', '4, row without SRB', '4, row offset', '4, row weight',
        '4, row both', '5, row F_l', '5, row F_h', '5, row add', '5, row cat',
        '6, row without CRB', '6, row F_l', '6, row F_h', '6, row add', '6, row cat',
        '7, row FPN', '7, row without PPM', '7, row PPM', '7, row Non-Local',
        '7, row DenseASPP')))

IFPN = (
    'Table 1, row RetinaNet, baseline', 'Table 1, row RetinaNet, i-FPN',
    'Table 1, row Faster R-CNN, baseline', 'Table 1, row Faster R-CNN, i-FPN',
    'Table 1, row FCOS, baseline', 'Table 1, row FCOS, i-FPN', 'Table 1, row ATSS, baseline',
    'Table 1, row ATSS, i-FPN', 'Table 1, row AutoAssign, baseline',
    'Table 1, row AutoAssign, i-FPN', 'Table 6, row ATSS: its schedule',
    'Table 6, row ATSS X101-64x4d-DCN, baseline', 'Table 6, row ATSS X101-64x4d-DCN, i-FPN',
    'Table 6, row ATSS X152-32x8d-DCN, i-FPN', 'Table 6, row AutoAssign X101-64x4d-DCN, baseline',
    'Table 6, row AutoAssign X101-64x4d-DCN, i-FPN',
    'Table 6, row AutoAssign X152-32x8d-DCN, i-FPN',
    'Table 2, row unrolling 0', 'Table 2, row unrolling 1', 'Table 2, row unrolling 2',
    'Table 2, row unrolling 4', 'Table 2, row Broyden', 'Table 3, row none', 'Table 3, row RBL;',
    'Table 3, row CSC', 'Table 3, row RBL and CSC', 'Table 4, row without connections',
    'Table 4, row Bi-FPN', 'Table 4, row NAS-FPN', 'Table 4, row Dense-FPN',
    'Table 4, row Pyramid', 'Table 5, row RLIter', 'Table 5, row MDEQ')

DYNAMIC_HEAD = (
    'row FCOS-D8;', 'row FCOS-D8@L, fine', 'row FCOS-D8@H, fine', 'row FCOS-D8@L, coarse',
    'row FCOS-D8@H, coarse', 'row softmax', 'row restricted tanh', 'row tau 0.5', 'row tau 1.0',
    'row tau 1.5', 'row tau 2.0', 'row of scale alone', 'row of depth alone',
    'row of scale and depth', 'row of neither', 'row FCOS R101', 'row ATSS R101',
    'row RetinaNet R50', 'row FreeAnchor R50', 'row EfficientDet-D1', 'lambda 0.4', 'lambda 0.8',
    *(f'Figure 5, {kind} head D{depth}' for kind in ('dynamic', 'fixed') for depth in (2, 4, 6)))

CADDET = (
    'Table 1, row Fixed, ratio 0.1', 'Table 1, row Fixed, ratio 0.2',
    'Table 1, row Loss-aware, ratio 0.05', 'Table 1, row Loss-aware, ratio 0.1',
    'Table 1, row Proposed, ratio 0.05', 'Table 1, row Proposed, ratio 0.1',
    'row of the global budget alone', 'Min 0.4, Max 0.95', 'Min 0.6, Max 0.95',
    'Min 0.8, Max 0.95', 'Min 0.6, Max 0.9.', 'Min 0.6, Max 1.0',
    'Table 3, row CADDet, ratio 0.05', 'Table 3, row CADDet, ratio 0.1',
    'Table 3, row CADDet + FPNLite, ratio 0.05', 'Table 3, row CADDet + FPNLite, ratio 0.1',
    'Table 4, row CADDet, FCOS', 'Table 4, row CADDet, RetinaNet', 'row MobileNet + FPNLite, FCOS',
    'row MobileNet + FPNLite, RetinaNet', 'row MobileNetV2 + FPNLite, FCOS',
    'row MobileNetV2 + FPNLite, RetinaNet')
