"""What is measured: each a process that trains one case, a turn at a time. Peers run in their own environments."""
