"""The core under a virtual clock, and what it is compared with. Build and bench time only.

scenario, families, gentd26   what to simulate: folders of files, seeded generators, a real trace
world, simulate               a fleet, requests and a virtual clock around a policy
baselines, early, lru, clockwork   other policies, behind the core's own interface
report, replay                figures, and a checker that recomputes them and finds broken rules
"""
