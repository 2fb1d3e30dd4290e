"""Offline multi-agent reinforcement learning for BenchMARL and TorchRL.

Importing the package registers its algorithms and tasks with BenchMARL and, where Hydra is in
use, their config schemas. Stock ``python -m benchmarl.run`` does so by itself.
"""

from benchmarl_ssd._compat import check_versions
from benchmarl_ssd._paths import conf_dir

check_versions()

from benchmarl_ssd.registration import register  # noqa: E402  (after the versions are known to fit)

register()

__version__ = "0.1.0"
__all__ = ["__version__", "conf_dir", "register"]
