"""All servers under test, in the order in which they are measured and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peer_runs.bentoml import BentoML
from peer_runs.litserve import LitServe
from peer_runs.mlserver import MLServer
from peer_runs.mmekit_servers import DjlSlots, DjlStock, Mmekit
from peer_runs.mms import Mms
from peer_runs.ray_serve import RayServe

if TYPE_CHECKING:
    from peer_runs.peer import Peer

PEERS: dict[str, Peer] = {
    one.name: one
    for one in (
        Mmekit(),
        DjlSlots(),
        DjlStock(),
        Mms(),
        MLServer(),
        BentoML(),
        LitServe(),
        RayServe(),
    )
}
OURS = Mmekit.name
