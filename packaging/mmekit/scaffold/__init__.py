"""A trained artefact becomes a package folder: what it is, who serves it, and what it is asked.

What belongs here: telling artefacts apart by their bytes, and writing the files of a package. What
a handler does with a request is in mmekit_runtime.
"""

from mmekit.scaffold.artifact import Artifact, recognise
from mmekit.scaffold.initialise import Initialised, init
from mmekit.scaffold.source import Wishes

__all__ = ["Artifact", "Initialised", "Wishes", "init", "recognise"]
