"""``python -m mmekit.cli``: `mme` by another way."""

from mmekit.cli import main

main()
