"""What kind of parameter a name says."""

from __future__ import annotations

# The matrices inside decoder blocks, which Muon is meant for; experts are stacked in one parameter per layer.
HIDDEN_MATRICES = (
    *(f".{module}_proj.weight" for module in ("q", "k", "v", "o", "gate", "up", "down")),
    ".experts.gate_up_proj",
    ".experts.down_proj",
)


def is_hidden_matrix(name: str) -> bool:
    """Whether the parameter is one that Muon may orthogonalize: no embedding, head, norm, bias or router."""
    return name.endswith(HIDDEN_MATRICES)
