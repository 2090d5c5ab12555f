"""Triton's gRPC client: calls, calls with a callback, and a stream."""

import queue

import numpy as np
import tensors
import tritonclient.grpc as triton
from checks import GRPC, check, refused, run
from tritonclient.utils import InferenceServerException


@check
def it_is_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("line", "line-v1")
    assert not client.is_model_ready("broken")


@check
def models_describe_themselves(client):
    assert "statistics" in client.get_server_metadata().extensions
    found = client.get_model_metadata("trees", as_json=True)
    assert found["versions"] == ["trees-v1"]
    config = client.get_model_config("line").config
    assert (config.name, config.max_batch_size, config.backend) == ("line", 0, "retinue")
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"


@check
def statistics_count_what_was_asked(client):
    client.infer("one", tensors.numbers(triton, "FP32"))
    (found,) = client.get_inference_statistics("one").model_stats
    assert found.inference_stats.success.count >= 1
    assert found.inference_stats.compute_infer.ns > 0
    assert found.batch_stats


@check
def the_repository_is_listed_and_models_are_loaded(client):
    index = {row.name: row for row in client.get_model_repository_index().models}
    assert index["line"].state == "READY"
    assert index["broken"].state == "UNAVAILABLE"
    client.load_model("one")
    assert "no model" in refused(lambda: client.load_model("nope"), InferenceServerException).message()
    try:
        client.unload_model("one")
    except InferenceServerException as error:
        assert "in use" in str(error), error


@check
def every_data_type_arrives(client):
    for datatype in tensors.NUMPY:
        result = client.infer("one", tensors.numbers(triton, datatype))
        assert result.as_numpy("y").tolist() == [2, 4, 6], datatype
    tensors.check_trees(client.infer("trees", tensors.trees(triton)))


@check
def parameters_of_triton_s_own_fields_are_read(client):
    found = client.infer(
        "one", tensors.numbers(triton, "FP32"), request_id="mine", priority=1, timeout=10_000_000,
        parameters={"weight": 0.5},
    ).get_response()  # fmt: skip
    assert found.id == "mine"
    assert found.model_version == "one-v1"
    assert found.parameters["release"].int64_param == 7


@check
def classes_and_chosen_outputs(client):
    wanted = [triton.InferRequestedOutput("probability", class_count=1), triton.InferRequestedOutput("label")]
    found = client.infer("trees", tensors.trees(triton), outputs=wanted)
    assert found.as_numpy("probability")[0, 0].decode().endswith(":2:cedar")
    assert found.as_numpy("label").tolist() == [b"cedar", b"ash"]


@check
def a_message_beyond_grpc_s_own_limit_is_taken(client):
    inputs = tensors.trees(triton)
    inputs[3].set_data_from_numpy(np.array(["b", "x" * 6_000_000], dtype=object))
    for coding in (None, "gzip"):
        tensors.check_trees(client.infer("trees", inputs, compression_algorithm=coding))


@check
def callbacks_are_called(client):
    answers = queue.Queue()
    for _ in range(20):
        client.async_infer("one", tensors.numbers(triton, "FP32"), lambda result, error: answers.put((result, error)))
    for _ in range(20):
        result, error = answers.get(timeout=20)
        assert error is None
        assert result.as_numpy("y").tolist() == [2, 4, 6]


@check
def a_stream_answers_every_request_and_survives_a_wrong_one(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(10):
        client.async_stream_infer("one", tensors.numbers(triton, "FP32"), request_id=str(number))
    client.async_stream_infer("nope", tensors.numbers(triton, "FP32"), request_id="wrong")
    client.async_stream_infer("one", tensors.numbers(triton, "FP32"), request_id="after")
    found = [answers.get(timeout=20) for _ in range(12)]
    client.stop_stream()
    wrong = [error for _, error in found if error is not None]
    assert len(wrong) == 1
    assert "no model or endpoint 'nope'" in wrong[0].message()
    ids = {result.get_response().id for result, error in found if error is None}
    assert ids == {*map(str, range(10)), "after"}


@check
def a_stream_that_asks_for_status_codes_gets_one(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"})
    client.async_stream_infer("nope", tensors.numbers(triton, "FP32"))
    seen = [answers.get(timeout=20)[1]]
    assert "no model or endpoint 'nope'" in seen[0].message()
    assert "NOT_FOUND" in str(seen[0].status())
    client.stop_stream()


@check
def the_last_response_of_a_stream_is_marked_for_who_asks(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("one", tensors.numbers(triton, "FP32"), enable_empty_final_response=True)
    result, error = answers.get(timeout=20)
    client.stop_stream()
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param


@check
def what_is_wrong_is_said_in_words_with_its_code(client):
    for model, code, words in (
        ("nope", "NOT_FOUND", "no model or endpoint 'nope'"),
        ("trees", "INVALID_ARGUMENT", "unknown input 'a'"),
        ("broken", "UNAVAILABLE", "not available"),
    ):
        error = refused(lambda m=model: client.infer(m, tensors.numbers(triton, "FP32")), InferenceServerException)
        assert code in error.status(), error
        assert words in error.message(), error


@check
def what_we_do_not_serve_is_said_in_words(client):
    error = refused(client.get_system_shared_memory_status, InferenceServerException)
    assert "UNIMPLEMENTED" in error.status()
    assert "shared memory is not served" in error.message()


run(lambda: triton.InferenceServerClient(GRPC))
