"""Trained policies as files that run without BenchMARL, TorchRL or PyTorch."""

from benchmarl_ssd.deployment.errors import ExportError
from benchmarl_ssd.deployment.export import ExportedPolicy, export_policy
from benchmarl_ssd.deployment.formats import read_metadata

__all__ = ["ExportError", "ExportedPolicy", "export_policy", "read_metadata"]
