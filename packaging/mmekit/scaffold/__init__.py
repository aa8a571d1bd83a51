"""A trained artefact becomes a package folder, and a name a project folder to keep packages in.

What belongs here: telling artefacts apart by their bytes (what it is, who serves it, what it is
asked), and writing the files of a package and of a project. What a handler does with a request is
in mmekit_runtime.
"""

from mmekit.scaffold.artifact import Artifact, recognise
from mmekit.scaffold.initialise import Initialised, init
from mmekit.scaffold.project_folder import new_project
from mmekit.scaffold.source import Wishes

__all__ = ["Artifact", "Initialised", "Wishes", "init", "new_project", "recognise"]
