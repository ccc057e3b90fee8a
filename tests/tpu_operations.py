"""TensorFlow's operations that a TPU takes: those that our networks need, and their relatives.

Source: the list of operations valid on TPUs of TensorBoard 2.20.0, by which its graph page
colors what is compatible: `WHITELIST` of `TpuCompatibilityProvider` in
https://github.com/tensorflow/tensorboard/blob/2.20.0/tensorboard/plugins/graph/tf_graph_common/op.ts
(Google's page of the same, https://cloud.google.com/tpu/docs/tensorflow-ops, names no version.)
tests/modeling/tpu_operations_test.py looks every name up in the installed TensorBoard.

That list has operations that are left out here on purpose: sizes of the results of `Where` and
`Unique` are known only at run time, and TPUs fill them up to a bound.
"""
TPU_OPERATIONS = frozenset("""
    Abs Add AddN AddV2 All Any ArgMax ArgMin AssignAddVariableOp AssignSubVariableOp
    AssignVariableOp AvgPool AvgPoolGrad BatchMatMul BatchMatMulV2 BiasAdd BiasAddGrad
    BroadcastGradientArgs BroadcastTo Cast Ceil ClipByValue Concat ConcatOffset ConcatV2 Const
    Conv2D Conv2DBackpropFilter Conv2DBackpropInput Cumsum DepthwiseConv2dNative
    DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput DivNoNan Einsum
    EnsureShape Equal Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod FusedBatchNormGradV3
    FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual Identity IdentityN If
    InvertPermutation IsFinite IsInf IsNan L2Loss LeakyRelu LeakyReluGrad Less LessEqual Log Log1p
    LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool MaxPoolGrad Maximum Mean Min
    Minimum Mul MulNoNan Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2 PartitionedCall
    Placeholder Pow PreventGradient Prod Range Rank ReadVariableOp RealDiv Reciprocal Relu Relu6
    Relu6Grad ReluGrad Reshape ResourceApplyAdam ResourceApplyGradientDescent
    ResourceApplyKerasMomentum ResourceApplyMomentum ResourceGather ReverseV2 Round Rsqrt RsqrtGrad
    ScatterNd Select SelectV2 Shape ShapeN Sigmoid SigmoidGrad Sign Size Slice Softmax Softplus
    SoftplusGrad Split SplitV Sqrt SqrtGrad Square SquaredDifference Squeeze
    StatefulPartitionedCall StatelessIf StatelessRandomUniform StatelessRandomUniformFullInt
    StatelessRandomUniformFullIntV2 StatelessRandomUniformV2 StatelessWhile StopGradient
    StridedSlice StridedSliceGrad Sub Sum Tanh TanhGrad TensorScatterUpdate Tile TopKV2 Transpose
    Unpack UnsortedSegmentMax UnsortedSegmentSum While Xdivy Xlogy ZerosLike
""".split())
# Stands for an argument of a function, and runs nothing.
ARGUMENT = 'Placeholder'
