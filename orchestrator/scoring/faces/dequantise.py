"""Writes an ONNX model with float32 weights in place of quantised ones, such as OpenCV's SFace (int8bq):

python -m orchestrator.scoring.faces.dequantise face_recognition_sface_2021dec_int8bq.onnx packs/sface/sface.onnx
"""

import argparse
from pathlib import Path

import onnx
from onnx import helper, numpy_helper

_QUIET = 3


def dequantise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network; every tensor that depends on weights alone is computed and stored.

    Such files list weights as inputs of the graph, too; only the first input stays. Raises ValueError if nothing is
    quantised.
    """
    import onnxruntime

    graph = model.graph
    if not any(node.op_type == "DequantizeLinear" for node in graph.node):
        raise ValueError("the model has no quantised weights")
    known = {tensor.name for tensor in graph.initializer}
    constant = []
    for node in graph.node:
        if set(node.input) <= {*known, ""}:
            constant.append(node)
            known |= set(node.output)
    rest = [node for node in graph.node if node not in constant]
    used = {name for node in rest for name in node.input}
    names = [name for node in constant for name in node.output if name in used]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    weights = helper.make_model(
        helper.make_graph(constant, "weights", [], outputs, graph.initializer),
        opset_imports=model.opset_import,
        ir_version=8,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    session = onnxruntime.InferenceSession(weights.SerializeToString(), options, providers=["CPUExecutionProvider"])
    stored = [numpy_helper.from_array(value, name) for name, value in zip(names, session.run(names, {}), strict=True)]
    stored += [tensor for tensor in graph.initializer if tensor.name in used]
    made = helper.make_model(
        helper.make_graph(rest, graph.name, [graph.input[0]], list(graph.output), stored),
        opset_imports=model.opset_import,
        ir_version=8,
    )
    onnx.checker.check_model(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    options.target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(dequantise(onnx.load(str(options.source))), str(options.target))


if __name__ == "__main__":
    main()
