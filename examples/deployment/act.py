"""Decide with an exported policy, given numpy and onnxruntime only: `act.py policy.onnx`."""

import json
import sys

import numpy as np
import onnxruntime

policy = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(policy.get_modelmeta().custom_metadata_map["benchmarl_ssd"])
inputs = {
    port["name"]: np.full((1, *port["shape"][1:]), port["role"] == "action_mask", port["dtype"])
    for port in about["inputs"]
}  # your sensors, and which actions are allowed
action = policy.run(["action"], inputs)[0][0]
print(", ".join(about["agents"]), "decide", action.tolist())
