"""`banyan sweep`: Ray Tune over pretrain. recipe.py is the map; docs/SWEEPS.md explains it by example."""
