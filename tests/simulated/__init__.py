"""The live scheduler and the agents' side of it, simulated: docs/promises.md tells what for."""
