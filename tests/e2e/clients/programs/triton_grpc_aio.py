"""Triton's asynchronous gRPC client."""

import asyncio

import numpy as np
import tensors
import tritonclient.grpc as plain
import tritonclient.grpc.aio as triton
from checks import GRPC, check, refused_later, run
from tritonclient.utils import InferenceServerException


@check
async def it_is_live_and_ready(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("line")
    assert not await client.is_model_ready("broken")


@check
async def every_data_type_arrives(client):
    for datatype in tensors.NUMPY:
        result = await client.infer("one", tensors.numbers(plain, datatype))
        assert result.as_numpy("y").tolist() == [2, 4, 6], datatype
    tensors.check_trees(await client.infer("trees", tensors.trees(plain)))


@check
async def many_at_once_are_all_answered(client):
    inputs, expected = tensors.packed(plain)
    found = await asyncio.gather(*(client.infer("line", inputs) for _ in range(50)))
    assert all(np.allclose(one.as_numpy("y"), expected) for one in found)


@check
async def a_stream_answers_and_survives_a_wrong_request(client):
    async def asked():
        for number in range(5):
            yield {"model_name": "one", "inputs": tensors.numbers(plain, "FP32"), "request_id": str(number)}
        yield {"model_name": "nope", "inputs": tensors.numbers(plain, "FP32")}

    seen, wrong = set(), []
    async for result, error in client.stream_infer(asked()):
        if error is None:
            seen.add(result.get_response().id)
        else:
            wrong.append(error.message())
    assert seen == set("01234")
    assert len(wrong) == 1


@check
async def a_deadline_of_the_client_is_kept(client):
    inputs, _ = tensors.packed(plain, rows=50_000)
    error = await refused_later(client.infer("line", inputs, client_timeout=0.0001), InferenceServerException)
    assert "DEADLINE_EXCEEDED" in error.status(), error
    assert (await client.infer("one", tensors.numbers(plain, "FP32"))).as_numpy("y").tolist() == [2, 4, 6]


run(lambda: triton.InferenceServerClient(GRPC))
