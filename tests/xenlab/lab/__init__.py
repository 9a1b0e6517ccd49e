"""A real Xen host in a process: the hypervisor and a Debian dom0 under QEMU's emulation.

No hardware virtualisation is used, so it runs wherever QEMU does. README.md beside this
package says how; ``python -m lab --help`` lists the commands.
"""
