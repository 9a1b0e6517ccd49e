"""Simulated hosts in a process of their own: ``python -m xsave_plugins.sim_host``."""

from .command import main

main(prog_name="python -m xsave_plugins.sim_host")
