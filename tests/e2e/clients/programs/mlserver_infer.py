"""MLServer's command line for many requests: `mlserver infer`."""

import json
import subprocess
from pathlib import Path

from checks import HTTP, check, run


def infer(lines, *options):
    Path("in.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["mlserver", "infer", "-u", HTTP, "-m", "one", "-i", "in.txt", "-o", "out.txt", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in Path("out.txt").read_text().splitlines()]


def request(*values, **more):
    return {"inputs": [{"name": "a", "shape": [len(values)], "datatype": "FP32", "data": list(values), **more}]}


@check
def every_line_is_answered(client):
    found = infer([request(float(number)) for number in range(30)], "-w", "4")
    values = sorted(line["outputs"][0]["data"][0] for line in found)
    assert values == [2.0 * number for number in range(30)]


@check
def content_types_are_taken(client):
    asked = [{**request(1.0, 2.0, parameters={"content_type": "np"}), "parameters": {"content_type": "np"}}]
    (found,) = infer(asked)
    assert found["outputs"][0]["data"] == [2.0, 4.0]


@check
def small_requests_are_grouped(client):
    found = infer([request(float(number)) for number in range(12)], "-s", "4")
    values = sorted(value for line in found for value in line["outputs"][0]["data"])
    assert values == [2.0 * number for number in range(12)]


run(object)
