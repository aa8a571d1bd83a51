"""What runs inside the peers' environments: none of it knows anything of mmekit."""

from pathlib import Path

HANDLERS = Path(__file__).resolve().parent
