"""Triton's asynchronous HTTP client."""

import asyncio

import numpy as np
import tensors
import tritonclient.http as plain
import tritonclient.http.aio as triton
from checks import HTTP, check, refused_later, run
from tritonclient.utils import InferenceServerException


@check
async def it_is_live_and_ready(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("line")
    assert not await client.is_model_ready("broken")


@check
async def models_describe_themselves(client):
    assert (await client.get_model_metadata("line"))["versions"] == ["line-v1"]
    assert (await client.get_model_config("line"))["name"] == "line"
    assert (await client.get_inference_statistics("line"))["model_stats"]
    assert {row["name"] for row in await client.get_model_repository_index()} >= {"line", "late", "trees"}


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
async def what_is_wrong_is_said_in_words(client):
    error = await refused_later(client.infer("nope", tensors.numbers(plain, "FP32")), InferenceServerException)
    assert "no model or endpoint 'nope'" in error.message()


run(lambda: triton.InferenceServerClient(HTTP))
