"""Lets BenchMARL's Hydra applications find this package's configs.

Hydra imports this module in *every* Hydra application of the environment. It therefore imports
nothing but Hydra, acts only inside BenchMARL, and never raises.
"""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class BenchmarlSsdSearchPathPlugin(SearchPathPlugin):
    """Appends our config folder to the search path of BenchMARL's applications."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See Hydra's ``SearchPathPlugin``."""
        if "benchmarl" not in sys.modules:
            return
        try:
            import benchmarl_ssd

            search_path.append("benchmarl-ssd", benchmarl_ssd.conf_dir().as_uri())
        except Exception as error:  # an unusable plugin must not stop other algorithms
            print(f"benchmarl-ssd is not available: {error}", file=sys.stderr)
