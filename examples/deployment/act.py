"""Decide with an exported policy, given numpy and onnxruntime only: `act.py policy.onnx`."""

import json
import sys

import numpy as np
import onnxruntime

policy = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(policy.get_modelmeta().custom_metadata_map["benchmarl_ssd"])
shapes = {port["name"]: (1, *port["shape"][1:]) for port in about["inputs"]}
inputs = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}  # your sensors
action = policy.run(["action"], inputs)[0][0]
print(", ".join(about["agents"]), "decide", action.tolist())
