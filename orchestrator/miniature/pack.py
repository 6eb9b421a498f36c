"""Builds a face pack of two small ONNX files that InsightFace loads as its own, for the drawn faces.

Nothing is trained. The detector measures moments (mass, x, y, x^2 + y^2) of five marker colours around every anchor:
their centroids are the landmarks. The recogniser averages the aligned face over 7 x 7 cells, subtracts the mean
face, and projects the rest to 512 numbers. InsightFace distinguishes models by shape: nine outputs are a detector
(scores, boxes, landmarks, each at strides 8, 16, 32; rows in y, x, anchor order; distances in strides, measured from
the cell's corner), one square input of 112 is a recogniser.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from orchestrator.miniature import draw

STRIDES = (8, 16, 32)
_WINDOW = 32  # pooled pixels around an anchor
_CELL = 2  # pooled pixels per stride, so that the window is 16 strides wide
_MARKER_RULES = ((-1, 1, -1, 0), (-1, -1, 1, 0), (1, -1, -1, 0), (1, -2, 1, -1), (-2, 1, 1, -1))
"""Per marker: weights of red, green, blue in 0..1 and a bias; 1 on its own colour, 0 or less on the others and skin."""


def build(folder: Path) -> Path:
    """Writes a face pack to `folder` unless it exists; `FaceAnalysis(name=<its absolute path>)` then loads it."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        _save(_detector(), draft / "detector.onnx")
        _save(_recogniser(), draft / "recogniser.onnx")
        _publish(draft, folder)
    return folder


def _publish(draft: Path, folder: Path) -> None:
    """A second process finds the folder: both packs are the same."""
    draft.chmod(0o755)
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)
        if not folder.is_dir():
            raise


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


class _Graph:
    """Adds one node per call and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str | ArrayLike, out: str = "", **attributes: Any) -> str:
        """Strings name earlier outputs, anything else is a constant. Nodes stay unnamed: InsightFace reads names that
        begin with Sub or Mul as a sign that the model wants raw pixels."""
        out = out or f"t{len(self.nodes)}"
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [out], **attributes))
        return out

    def _constant(self, value: ArrayLike) -> str:
        array = np.asarray(value)
        name = f"c{len(self.constants)}"
        kind = np.int64 if array.dtype.kind == "i" else np.float32
        self.constants.append(numpy_helper.from_array(array.astype(kind), name))
        return name

    def ramp(self, x: str) -> str:
        return self.op("Clip", x, 0.0, 1.0)

    def square(self, x: str) -> str:
        return self.op("Mul", x, x)

    def channel(self, x: str, first: int, *, step: int = 0) -> str:
        """One channel, or every `step`-th from `first` on."""
        last = np.iinfo(np.int64).max if step else first + 1
        return self.op("Slice", x, [first], [last], [1], [step or 1])

    def model(self, name: str, shape: list[int | str], outputs: list[tuple[str, int]]) -> onnx.ModelProto:
        """`outputs`: name and width of each; the number of rows is open. Uses the oldest sufficient opset."""
        source = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
        sinks = [helper.make_tensor_value_info(out, TensorProto.FLOAT, (f"rows_{out}", n)) for out, n in outputs]
        graph = helper.make_graph(self.nodes, name, [source], sinks, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _detector() -> onnx.ModelProto:
    graph = _Graph()
    masks = _marker_masks(graph)
    heads = [_head(graph, masks, stride) for stride in STRIDES]
    outputs = [(head[kind], width) for kind, width in ((0, 1), (1, 4), (2, 10)) for head in heads]
    return graph.model("detector", [1, 3, "height", "width"], outputs)


def _marker_masks(graph: _Graph) -> str:
    """Five soft masks, one per marker colour; the input is (RGB - 127.5) / 128."""
    rules = np.array(_MARKER_RULES, np.float32)
    weights = rules[:, :3] * (128 / 255)
    bias = rules[:, 3] + rules[:, :3].sum(1) * (127.5 / 255)
    excess = graph.op("Conv", "input", weights.reshape(5, 3, 1, 1), bias, kernel_shape=[1, 1])
    return graph.ramp(graph.op("Mul", graph.op("Sub", excess, 0.4), 4.0))


def _head(graph: _Graph, masks: str, stride: int) -> tuple[str, str, str]:
    """Scores, boxes and landmarks at one stride."""
    mass, across, down, spread = _moments(graph, masks, stride)
    middle = tuple(graph.op("ReduceMean", centre, axes=[1], keepdims=1) for centre in (across, down))
    eyes = [graph.op("Sub", graph.channel(c, 1), graph.channel(c, 0)) for c in (across, down)]
    distance2 = graph.op("Add", graph.square(eyes[0]), graph.square(eyes[1]))
    distance = graph.op("Sqrt", graph.op("Add", distance2, 1e-6))
    compact = _compact(graph, spread, distance2)
    score = _score(graph, stride, mass, compact, middle, distance)
    box = _box(graph, middle, distance)
    points = graph.op("Concat", *[graph.channel(c, i) for i in range(5) for c in (across, down)], axis=1)
    rows = [_rows(graph, value, width, stride) for value, width in ((score, 1), (box, 4), (points, 10))]
    return rows[0], rows[1], rows[2]


def _moments(graph: _Graph, masks: str, stride: int) -> tuple[str, str, str, str]:
    """Mass, centroid (x, y, in strides from the anchor) and variance of each colour in each anchor's window."""
    pool = stride // _CELL
    pooled = graph.op("AveragePool", masks, kernel_shape=[pool, pool], strides=[pool, pool])
    axis = (np.arange(_WINDOW) - (_WINDOW - 1) / 2) / _CELL - 0.5 / stride
    x, y = np.meshgrid(axis, axis)
    kernels = np.tile(np.stack([np.ones_like(x), x, y, x * x + y * y]), (5, 1, 1))[:, None]
    before, after = _WINDOW // 2, _WINDOW // 2 - _CELL
    sums = graph.op(
        "Conv", pooled, kernels, group=5, kernel_shape=[_WINDOW, _WINDOW], strides=[_CELL, _CELL],
        pads=[before, before, after, after],
    )  # fmt: skip
    mass = graph.channel(sums, 0, step=4)
    divisor = graph.op("Add", mass, 1e-4)
    across, down, radius2 = (graph.op("Div", graph.channel(sums, i, step=4), divisor) for i in (1, 2, 3))
    spread = graph.op("Sub", radius2, graph.op("Add", graph.square(across), graph.square(down)))
    return mass, across, down, spread


def _compact(graph: _Graph, spread: str, distance2: str) -> str:
    """1 where every colour is one small blob, 0 where a window contains the markers of two faces."""
    widest = graph.op("ReduceMax", spread, axes=[1])
    allowed = graph.op("Add", graph.op("Mul", distance2, 0.05), 1e-6)
    return graph.ramp(graph.op("Sub", 2.0, graph.op("Div", widest, allowed)))


def _score(graph: _Graph, stride: int, mass: str, compact: str, middle: tuple[str, ...], distance: str) -> str:
    """All colours present, each compact, the face in the window's middle, its eyes at this stride's distance."""
    present = graph.op("ReduceMin", graph.ramp(graph.op("Mul", mass, 2.0)), axes=[1])
    offset = graph.op("Max", *[graph.op("Abs", m) for m in middle])
    centred = graph.ramp(graph.op("Sub", 2.0, graph.op("Mul", offset, 1.6)))
    small = graph.ramp(graph.op("Sub", distance, 0.4))
    large = graph.ramp(graph.op("Sub", 20.0 if stride == STRIDES[-1] else 8.0, distance))
    # With equal scores the sort would choose the anchor: prefer the nearest, and more pixels per face.
    off_centre = graph.op("Add", *[graph.square(m) for m in middle])
    nearest = graph.op("Sub", 1.0, graph.op("Mul", off_centre, 0.05))
    finest = graph.op("Sub", 1.0, graph.op("Div", 0.5 / stride, graph.op("Add", distance, 0.1)))
    score = present
    for factor in (compact, centred, small, large, nearest, finest):
        score = graph.op("Mul", score, factor)
    return score


def _box(graph: _Graph, middle: tuple[str, ...], distance: str) -> str:
    """Left, top, right and bottom as distances from the anchor: multiples of the eyes' distance around the face."""

    def edge(centre: str, multiple: float, sign: float) -> str:
        return graph.op("Mul", graph.op("Add", centre, graph.op("Mul", distance, multiple)), sign)

    x, y = middle
    return graph.op("Concat", edge(x, -1.3, -1.0), edge(y, -1.6, -1.0), edge(x, 1.3, 1.0), edge(y, 1.4, 1.0), axis=1)


def _rows(graph: _Graph, value: str, width: int, stride: int) -> str:
    """One row per anchor; InsightFace expects two anchors in each cell, here they are equal."""
    both = graph.op("Transpose", graph.op("Concat", value, value, axis=1), perm=[0, 2, 3, 1])
    return graph.op("Reshape", both, [-1, width], out=f"out_{width}_{stride}")


def _recogniser(cells: int = 7, width: int = 512) -> onnx.ModelProto:
    """Pool to cells, subtract the mean face, project; the input is (RGB - 127.5) / 127.5. The number of faces is
    open, because InsightFace embeds several at once."""
    weights, mean = _projection(cells, width)
    graph = _Graph()
    side = draw.TEMPLATE // cells
    pooled = graph.op("AveragePool", "input", kernel_shape=[side, side], strides=[side, side])
    graph.op("Gemm", graph.op("Flatten", pooled, axis=1), weights, -mean @ weights, out="embedding")
    return graph.model("recogniser", ["faces", 3, draw.TEMPLATE, draw.TEMPLATE], [("embedding", width)])


def _projection(cells: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (cells * cells * 3 x width) that keep cosines but drop the background, brightness and the mean face."""
    mean = _cells(draw.canonical(np.zeros((6, 6, 3))) / 127.5 - 1, cells)
    inside = _cells(np.repeat(draw.oval()[..., None], 3, axis=2), cells) > 0.9
    brightness = [np.repeat(np.eye(3)[channel], cells * cells) * inside for channel in range(3)]
    shared = np.linalg.qr(np.stack([*brightness, mean * inside], axis=1))[0]
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(width, inside.size)))[0].T
    return np.diag(inside) @ (np.eye(inside.size) - shared @ shared.T) @ basis, mean


def _cells(face: draw.Array, cells: int) -> NDArray[np.float64]:
    """Means over cells x cells squares, flat in channel, row, column order."""
    side = draw.TEMPLATE // cells
    return np.ravel(face.reshape(cells, side, cells, side, 3).mean((1, 3)).transpose(2, 0, 1))
