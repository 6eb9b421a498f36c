"""The miniature's face pack with the cost of a real one: InsightFace's buffalo_l in layers, weights and time.

A detector like SCRFD-10G (4.3 M weights) and a recogniser like iResNet-50 (44 M) run in full with random weights; what
they give is multiplied by zero and added to what the miniature's models say, so that drawn faces are still found.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from orchestrator.miniature import pack

Feature: TypeAlias = tuple[str, int]
"""A tensor's name and its channels."""


def build(folder: Path) -> Path:
    """Makes `folder` a face pack (192 MB), unless it is one."""
    if not folder.exists():
        light = pack.build(folder.with_name(f"{folder.name}-light"))
        draft = folder.with_name(f"{folder.name}-draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        scores = [f"out_1_{stride}" for stride in pack.STRIDES]
        _weigh_down(light / "detector.onnx", draft / "detector.onnx", _scrfd_10g, scores, shape=[1, 1])
        _weigh_down(light / "recogniser.onnx", draft / "recogniser.onnx", _iresnet_50, ["embedding"], shape=[-1, 1])
        draft.rename(folder)
    return folder


class _Net:
    """Adds one node per call and hands back the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"heavy_{len(self.nodes)}"], **attributes))
        return f"heavy_{len(self.nodes) - 1}"

    def constant(self, value: ArrayLike, kind: type = np.float32) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def random(self, *shape: int) -> str:
        """He's scale, so that numbers neither vanish nor explode on their way."""
        return self.constant(self._rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape))

    def conv(self, x: Feature, channels: int, *, size: int = 3, stride: int = 1, then: str = "") -> Feature:
        name, inputs = x
        weights, bias = self.random(channels, inputs, size, size), self.constant(np.zeros(channels))
        form = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [size // 2] * 4}
        name = self.op("Conv", name, weights, bias, **form)
        if then == "PRelu":
            return self.op("PRelu", name, self.constant(np.full((channels, 1, 1), 0.25))), channels
        return (self.op(then, name) if then else name), channels

    def norm(self, x: Feature) -> Feature:
        name, channels = x
        moments = [self.constant(np.full(channels, value)) for value in (1, 0, 0, 1)]
        return self.op("BatchNormalization", name, *moments), channels

    def add(self, x: Feature, y: Feature) -> Feature:
        return self.op("Add", x[0], y[0]), x[1]

    def nought(self, name: str, axes: Sequence[int]) -> str:
        """Zero, but only known after everything before it is computed."""
        return self.op("Mul", self.op("ReduceMean", name, axes=list(axes), keepdims=1), self.constant(0.0))


def _weigh_down(
    source: Path, target: Path, ballast: Callable[[_Net, str], str], outputs: Sequence[str], *, shape: list[int]
) -> None:
    """Adds what `ballast` computes from the model's input, in `shape`, to the outputs named."""
    model = onnx.load(str(source))
    net = _Net()
    nought = net.op("Reshape", ballast(net, model.graph.input[0].name), net.constant(shape, np.int64))
    for node in model.graph.node:
        if node.output[0] in outputs:
            name = node.output[0]
            node.output[0] = f"{name}_light"
            net.nodes.append(helper.make_node("Add", [f"{name}_light", nought], [name]))
    model.graph.node.extend(net.nodes)
    model.graph.initializer.extend(net.weights)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _iresnet_50(net: _Net, source: str) -> str:
    x = net.conv((source, 3), 64, then="PRelu")
    for channels, blocks in ((64, 3), (128, 4), (256, 14), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 else 1
            skip = net.conv(x, channels, size=1, stride=2) if block == 0 else x
            y = net.conv(net.norm(x), channels, then="PRelu")
            x = net.add(net.conv(y, channels, stride=stride), skip)
    flat = net.op("Flatten", net.norm(x)[0], axis=1)
    embedding = net.op("Gemm", flat, net.random(512 * 49, 512), net.constant(np.zeros(512)))
    return net.nought(embedding, axes=[1])


def _scrfd_10g(net: _Net, source: str) -> str:
    heads = [_head(net, level) for level in _pyramid(net, _backbone(net, source))]
    return net.op("Add", net.op("Add", heads[0], heads[1]), heads[2])


def _backbone(net: _Net, source: str) -> list[Feature]:
    """The features at strides 8, 16 and 32."""
    x = net.conv((source, 3), 28, stride=2, then="Relu")
    x = net.conv(net.conv(x, 28, then="Relu"), 56, then="Relu")
    x = net.op("MaxPool", x[0], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 56
    levels = []
    for stage, (channels, blocks) in enumerate(((56, 3), (88, 4), (88, 2), (224, 3))):
        for block in range(blocks):
            x = _residual(net, x, channels, stride=2 if stage and block == 0 else 1)
        levels.append(x)
    return levels[1:]


def _residual(net: _Net, x: Feature, channels: int, *, stride: int) -> Feature:
    skip = x
    if stride == 2:
        skip = net.op("AveragePool", x[0], kernel_shape=[2, 2], strides=[2, 2]), x[1]
    if stride == 2 or x[1] != channels:
        skip = net.conv(skip, channels, size=1)
    y = net.conv(net.conv(x, channels, stride=stride, then="Relu"), channels)
    name, _ = net.add(y, skip)
    return net.op("Relu", name), channels


def _pyramid(net: _Net, levels: Sequence[Feature]) -> list[Feature]:
    """Coarse features into fine ones and back, 56 channels each."""
    fine, middle, coarse = (net.conv(level, 56, size=1) for level in levels)
    middle = net.add(middle, _double(net, coarse))
    fine = net.add(fine, _double(net, middle))
    fine, middle, coarse = (net.conv(level, 56) for level in (fine, middle, coarse))
    middle = net.add(middle, net.conv(fine, 56, stride=2))
    coarse = net.add(coarse, net.conv(middle, 56, stride=2))
    return [fine, net.conv(middle, 56), net.conv(coarse, 56)]


def _double(net: _Net, x: Feature) -> Feature:
    return net.op("Resize", x[0], "", net.constant([1, 1, 2, 2]), mode="nearest"), x[1]


def _head(net: _Net, x: Feature) -> str:
    for _ in range(3):
        x = net.conv(x, 80, then="Relu")
    outputs = [net.conv(x, channels)[0] for channels in (2, 8, 20)]
    return net.nought(net.op("Concat", *outputs, axis=1), axes=[1, 2, 3])
