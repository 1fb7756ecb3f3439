"""What leaves Keras, for a server or a phone, computes the same and knows of no penalty."""

import model_cases as cases
import numpy as np
import pytest
import tensorflow as tf
import tf2onnx
from marks import slow
from onnx.reference import ReferenceEvaluator

X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
SPEC = [tf.TensorSpec((None, 6), tf.float32, name="x")]


KINDS = [cases.nested, None]
KINDS += [slow(kind) for kind in cases.BUILT if kind is not cases.nested]


def plain_and_penalized(kind, api):
    """A model without penalties, and one with them; also as the layers' own for None."""
    if kind is None:
        models = cases.sequential(api), cases.penalized_in_every_way(api)
    else:
        models = kind(api), cases.add_penalties(kind(api))
    for model in models:
        cases.set_initial_weights(model)
    return models


@pytest.fixture(params=KINDS, ids=lambda kind: kind and kind.__name__)
def models(request, api):
    return plain_and_penalized(request.param, api)


def expected():
    a, b, c = cases.initial_weights()
    return X @ a @ b @ c


SERVE = """
import json, sys
import numpy as np
import tensorflow as tf

x = tf.constant(np.random.default_rng(0).normal(size=(4, 6)), tf.float32)
loaded = [tf.saved_model.load(path) for path in sys.argv[1:]]
print(json.dumps([exported.serve(x).numpy().tolist() for exported in loaded]))
"""


@pytest.mark.slow
def test_saved_model(api, tmp_path, run_fresh):
    penalized = []
    for kind in [*cases.BUILT, None]:
        operations = []
        for model, name in zip(plain_and_penalized(kind, api), ["plain", "penalized"], strict=True):
            path = tmp_path / f"{kind and kind.__name__}_{name}"
            model.export(str(path))
            exported = tf.saved_model.load(str(path))
            [concrete] = exported.serve.concrete_functions
            operations.append([operation.type for operation in concrete.graph.get_operations()])
            graph = (path / "saved_model.pb").read_bytes()
            assert b"tfreg" not in graph and b"group_norms" not in graph
        assert operations[0] == operations[1] != []
        penalized.append(path)
    for served in run_fresh(SERVE, *penalized):
        np.testing.assert_allclose(served, expected(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning:tensorflow.lite")
def test_tflite(models):
    tensors = []
    for model in models:
        converted = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        interpreter = tf.lite.Interpreter(model_content=converted)
        details = interpreter.get_tensor_details()
        tensors.append(sorted(tuple(tensor["shape"]) for tensor in details))
        [given], [returned] = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], X.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], X)
        interpreter.invoke()
        outputs = interpreter.get_tensor(returned["index"])
        np.testing.assert_allclose(outputs, expected(), rtol=1e-4, atol=1e-5)
    assert tensors[0] == tensors[1] != []


def test_onnx(models):
    _, model = models
    function = tf.function(lambda x: model(x), input_signature=SPEC)
    converted, _ = tf2onnx.convert.from_function(function, input_signature=SPEC)
    assert [node.op_type for node in converted.graph.node] == ["MatMul"] * 3
    [outputs] = ReferenceEvaluator(converted).run(None, {"x": X})
    np.testing.assert_allclose(outputs, expected(), rtol=1e-4, atol=1e-5)
