"""Which server an image URI stands for, and how that server is started on this machine.

`images` is the table: the file images.json and what is built in. `launcher` starts what the table
says behind the local endpoint's seam for containers, `docker` starts the image itself, and `mms`
is Multi Model Server in an environment (`environment`) that is made on first use. `ecr` builds
images and pushes them.
"""

from mmekit_local.containers.images import BUILT_IN, ImageRule, ImageRules
from mmekit_local.containers.launcher import ImageLauncher, launcher_for

__all__ = ["BUILT_IN", "ImageLauncher", "ImageRule", "ImageRules", "launcher_for"]
