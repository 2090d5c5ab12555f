"""KServe's REST client."""

import numpy as np
from checks import HTTP, check, refused_later, run
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

URL = f"http://{HTTP}"


def request(model, datatype, values, binary=False, **more):
    tensor = InferInput("a", [len(values)], datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor], **more)


@check
async def health_bodies_are_json_that_it_reads(client):
    assert await client.is_server_live(URL)
    assert await client.is_server_ready(URL)
    assert await client.is_model_ready(URL, "one")
    assert not await client.is_model_ready(URL, "broken")


@check
async def json_and_binary_requests_are_answered(client):
    for datatype, kind in (("FP32", np.float32), ("FP64", np.float64), ("INT32", np.int32), ("FP16", np.float16)):
        for binary in (True, False):
            if datatype == "FP16" and not binary:
                continue  # JSON has no form of it
            asked = request("one", datatype, np.array([1, 2, 3], dtype=kind), binary, request_id="mine")
            found = await client.infer(URL, asked, model_name="one")
            assert found.outputs[0].as_numpy().tolist() == [2, 4, 6], (datatype, binary)
            assert (found.model_name, found.id) == ("one", "mine")


@check
async def binary_outputs_come_when_asked_for(client):
    asked = request("one", "FP32", np.array([1, 2], dtype=np.float32), True, parameters={"binary_data_output": True})
    found = await client.infer(URL, asked, model_name="one")
    assert found.outputs[0].as_numpy().tolist() == [2, 4]


@check
async def what_is_wrong_is_an_error(client):
    asked = request("nope", "FP32", np.array([1], dtype=np.float32))
    error = await refused_later(client.infer(URL, asked, model_name="nope"))
    assert "404" in str(error)


run(lambda: InferenceRESTClient(RESTConfig(protocol="v2", retries=1)))
