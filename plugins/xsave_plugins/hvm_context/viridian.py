"""Save records of guests that use Microsoft's hypervisor interface ("Viridian").

Bits are those of the Hypervisor Top-Level Functional Specification; sizes and offsets
are in docs/formats/hvm.md.
"""

from __future__ import annotations

from xsave import Layout, layout, raw, u8, u64

from .save_record import bits

_PAGE = bits(enabled=0, pfn=(12, 52))


@layout
class ViridianDomain(Layout):
    """VIRIDIAN_DOMAIN. 16 bytes up to 4.4, 24 in 4.5, 32 from 4.6."""

    hypercall_gpa: int = u64(bits=bits(enabled=0, locked=1, pfn=(12, 52)))
    guest_os_id: int = u64(
        bits=bits(
            build_number=(0, 16), service_pack=(16, 8), minor=(24, 8), major=(32, 8),
            os=(40, 8), vendor=(48, 16),
        )
    )  # fmt: skip
    time_ref_count: int = u64()
    reference_tsc: int = u64(bits=_PAGE)


@layout
class ViridianVcpu(Layout):
    """VIRIDIAN_VCPU. 8 bytes from 4.2 to 4.6, 16 up to 4.12, 216 from 4.13."""

    vp_assist_msr: int = u64(bits=_PAGE)
    apic_assist_pending: int = u8()
    pad: bytes = raw(7)
    simp_msr: int = u64(bits=_PAGE)
    sint_msr: tuple[int, ...] = u64(16, bits=bits(vector=(0, 8), mask=16, auto_eoi=17, polling=18))
    stimer_config_msr: tuple[int, ...] = u64(
        4,
        bits=bits(
            enabled=0, periodic=1, lazy=2, auto_enable=3, vector=(4, 8), direct_mode=12,
            sintx=(16, 4),
        ),
    )  # fmt: skip
    stimer_count_msr: tuple[int, ...] = u64(4)
