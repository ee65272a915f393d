"""rapgym: which blocks of a language model stay in memory, decided at run time, benchmarked.

Importing registers the environments `RAP-v0`, `RAP-Counts-v0` and `RAP-KeptSet-v0` with Gymnasium
and opens no file.
"""

from rapgym.envs.env import register_all
from rapgym.files import clone, provenance

__version__ = provenance.VERSION
__all__ = ["__version__", "register_all"]

clone.follow()
register_all()
