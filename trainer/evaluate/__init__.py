"""How good a model is, and what it says: the loss on named sets, and sampling."""
