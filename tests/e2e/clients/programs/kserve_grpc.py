"""KServe's gRPC client, and its own messages for loading a model."""

import grpc
import numpy as np
from checks import GRPC, check, refused_later, run
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2, grpc_predict_v2_pb2_grpc


def request(model, datatype, values, raw):
    tensor = InferInput("a", [len(values)], datatype)
    tensor.set_data_from_numpy(values, binary_data=raw)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="mine")


@check
async def it_is_live_and_ready(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("one")


@check
async def typed_and_raw_requests_are_answered_in_kind(client):
    for datatype, kind in (("FP32", np.float32), ("FP64", np.float64), ("INT64", np.int64), ("UINT8", np.uint8)):
        for raw in (False, True):
            found = await client.infer(request("one", datatype, np.array([1, 2, 3], dtype=kind), raw))
            assert found.outputs[0].as_numpy().tolist() == [2, 4, 6], (datatype, raw)
            assert found.id == "mine"


@check
async def what_is_wrong_is_an_error_with_its_code(client):
    error = await refused_later(client.infer(request("nope", "FP32", np.array([1], dtype=np.float32), False)))
    assert "NOT_FOUND" in str(error), error


@check
async def a_model_is_loaded_with_kserve_s_own_message(client):
    async with grpc.aio.insecure_channel(GRPC) as channel:
        stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        found = await stub.RepositoryModelLoad(grpc_predict_v2_pb2.RepositoryModelLoadRequest(model_name="line"))
        assert (found.model_name, found.isLoaded) == ("line", True)


run(lambda: InferenceGRPCClient(GRPC))
