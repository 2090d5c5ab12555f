"""Triton's HTTP client."""

import numpy as np
import tensors
import tritonclient.http as triton
from checks import HTTP, check, refused, run
from tritonclient.utils import InferenceServerException


@check
def it_is_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("line")
    assert client.is_model_ready("line", "line-v1")
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready("broken")


@check
def metadata_says_what_a_model_takes(client):
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    found = client.get_model_metadata("trees")
    assert found["versions"] == ["trees-v1"]
    assert {i["name"]: i["datatype"] for i in found["inputs"]}["text"] == "BYTES"
    assert found["outputs"][1] == {"name": "probability", "datatype": "FP64", "shape": [-1, 3]}
    assert client.get_model_metadata("late")["versions"] == ["7"]


@check
def configuration_is_a_model_config(client):
    found = client.get_model_config("line")
    assert found["input"][0]["data_type"] == "TYPE_FP64"
    assert found["max_batch_size"] == 0
    assert "dynamic_batching" in found


@check
def statistics_count_what_was_asked(client):
    client.infer("one", tensors.numbers(triton, "FP32"))
    seen = 0
    for _ in range(20):  # two gateways answer; one of them has counted it
        (found,) = client.get_inference_statistics("one")["model_stats"]
        seen = max(seen, found["inference_stats"]["success"]["count"])
    assert seen >= 1
    assert isinstance(client.get_inference_statistics()["model_stats"], list)


@check
def the_index_is_given_for_an_empty_body(client):
    index = {row["name"]: row for row in client.get_model_repository_index()}
    assert index["line"]["state"] == "READY"
    assert index["line"]["version"] == "line-v1"
    assert index["broken"]["state"] == "UNAVAILABLE"
    assert index["broken"]["reason"]


@check
def a_model_is_loaded_and_unloaded_and_still_answers(client):
    client.load_model("one")
    refused(lambda: client.load_model("nope"), InferenceServerException)
    refused(lambda: client.load_model("one", config="{}"), InferenceServerException)
    try:
        client.unload_model("one")
    except InferenceServerException as error:
        assert "in use" in str(error), error
    assert client.infer("one", tensors.numbers(triton, "FP64")).as_numpy("y").tolist() == [2, 4, 6]


@check
def every_data_type_arrives_as_bytes(client):
    for datatype in tensors.NUMPY:
        result = client.infer("one", tensors.numbers(triton, datatype))
        assert result.as_numpy("y").tolist() == [2, 4, 6], datatype
        assert result.get_response()["model_version"] == "one-v1"
    tensors.check_trees(client.infer("trees", tensors.trees(triton)))


@check
def every_data_type_json_has_arrives_as_json(client):
    for datatype in sorted(set(tensors.NUMPY) - {"FP16", "BF16"}):
        inputs = tensors.numbers(triton, datatype, binary_data=False)
        wanted = [triton.InferRequestedOutput("y", binary_data=False)]
        assert client.infer("one", inputs, outputs=wanted).as_numpy("y").tolist() == [2, 4, 6], datatype
    tensors.check_trees(client.infer("trees", tensors.trees(triton, binary_data=False)))


@check
def outputs_are_chosen_and_may_be_mixed(client):
    wanted = [
        triton.InferRequestedOutput("probability", binary_data=True),
        triton.InferRequestedOutput("label", binary_data=False),
    ]
    result = client.infer("trees", tensors.trees(triton), outputs=wanted)
    tensors.check_trees(result)
    assert [o["name"] for o in result.get_response()["outputs"]] == ["probability", "label"]
    only = client.infer("trees", tensors.trees(triton), outputs=wanted[1:])
    assert only.as_numpy("probability") is None


@check
def classes_come_with_their_labels(client):
    wanted = [triton.InferRequestedOutput("probability", class_count=2)]
    found = client.infer("trees", tensors.trees(triton), outputs=wanted).as_numpy("probability")
    assert found.shape == (2, 2)
    assert [cell.decode().split(":")[1:] for cell in found[0]] == [["2", "cedar"], ["1", "birch"]]


@check
def a_large_packed_table_goes_and_comes_compressed(client):
    inputs, expected = tensors.packed(triton, rows=20_000)
    for coding in (None, "gzip", "deflate"):
        found = client.infer(
            "line", inputs, request_compression_algorithm=coding, response_compression_algorithm=coding
        )
        assert np.allclose(found.as_numpy("y"), expected), coding


@check
def id_priority_and_timeout_are_taken(client):
    found = client.infer("one", tensors.numbers(triton, "FP32"), request_id="mine", priority=1, timeout=10_000_000)
    assert found.get_response()["id"] == "mine"
    late = refused(lambda: client.infer("one", tensors.numbers(triton, "FP32"), priority=-1))
    assert "priority" in str(late)


@check
def requests_go_out_at_once_and_all_are_answered(client):
    asked = [client.async_infer("one", tensors.numbers(triton, "FP32")) for _ in range(50)]
    assert all(one.get_result().as_numpy("y").tolist() == [2, 4, 6] for one in asked)


@check
def what_is_wrong_is_said_in_words(client):
    for model, inputs, words in (
        ("nope", tensors.numbers(triton, "FP32"), "no model or endpoint 'nope'"),
        ("line", tensors.numbers(triton, "FP32"), None),
        ("trees", tensors.numbers(triton, "FP32"), "unknown input 'a'"),
        ("broken", tensors.numbers(triton, "FP32"), "not available"),
    ):
        if words:
            error = refused(lambda m=model, i=inputs: client.infer(m, i), InferenceServerException)
            assert words in error.message(), error
    wrong = refused(lambda: client.infer("one", tensors.numbers(triton, "FP32"), model_version="9"))
    assert "has version one-v1" in str(wrong)
    twice = [triton.InferRequestedOutput("y"), triton.InferRequestedOutput("y")]
    assert "twice" in str(refused(lambda: client.infer("one", tensors.numbers(triton, "FP32"), outputs=twice)))


run(lambda: triton.InferenceServerClient(HTTP, concurrency=4))
