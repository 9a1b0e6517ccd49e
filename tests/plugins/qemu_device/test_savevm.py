"""Finding the sections of a QEVM blob: by guessing, by footers, by a description."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsave_plugins.qemu_device.device_names import DEVICES
from xsave_plugins.qemu_device.savevm import MAX_FALSE, MAX_SECTIONS, Section, walk

GOLDEN = Path(__file__).parents[2] / "golden" / "records"
REAL = (GOLDEN / "xen.qemu.context.hvm.bin").read_bytes()[8:]
HEAD = b"QEVM\0\0\0\3"
START, PART, END, FULL = 1, 2, 3, 4

# id, path and name, instance, version, as the reference record of the same machine has
# them; that one has a floppy and one vcpu, this one no graphics and two vcpus.
REAL_SECTIONS = [
    (0, "timer", 0, 2),
    (3, "cpu_common", 0, 1), (4, "cpu", 0, 12), (5, "apic", 0, 3),
    (6, "cpu_common", 1, 1), (7, "cpu", 1, 12), (8, "apic", 1, 3),
    (10, "PCIBUS", 0, 1), (11, "0000:00:00.0/I440FX", 0, 3),
    (12, "dma", 0, 1), (13, "dma", 1, 1), (14, "0000:00:01.0/PIIX3", 0, 3),
    (15, "ioapic", 0, 3), (16, "hpet", 0, 2), (17, "mc146818rtc", 0, 3), (18, "serial", 0, 3),
    (19, "fdc", 0, 2), (20, "ps2kbd", 0, 3), (21, "ps2mouse", 0, 2), (22, "pckbd", 0, 3),
    (23, "port92", 0, 1), (24, "0000:00:01.1/ide", 0, 3), (25, "i2c_bus", 0, 1),
    (26, "0000:00:01.3/piix4_pm", 0, 3), (35, "0000:00:02.0/platform", 0, 4),
]  # fmt: skip


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def header(
    section_id: int, idstr: bytes, instance: int = 0, version: int = 1, kind: int = FULL
) -> bytes:
    return b"".join(
        (bytes([kind]), u32(section_id), bytes([len(idstr)]), idstr, u32(instance), u32(version))
    )


def footer(section_id: int) -> bytes:
    return b"\x7e" + u32(section_id)


def described(*devices: dict[str, object]) -> bytes:
    text = json.dumps({"page_size": 4096, "devices": devices}).encode()
    return b"\x06" + u32(len(text)) + text


def full_name(section: Section) -> str:
    return f"{section.path}/{section.name}" if section.path else section.name


def test_the_real_record_is_qevm_3_without_configuration_footers_or_description() -> None:
    assert REAL.startswith(HEAD)
    assert REAL[8] == FULL
    assert REAL[-1] == 0
    assert b"\x7e" not in REAL
    assert b"{" not in REAL[-2000:]


def test_the_sections_of_the_real_record_are_found_and_no_others() -> None:
    found = walk(REAL)
    assert [
        (s.section_id, full_name(s), s.instance_id, s.version_id) for s in found.sections
    ] == REAL_SECTIONS
    assert {section.found_by for section in found.sections} == {"known"}
    assert "7.2" in found.fits  # what Debian 12 has for its Xen 4.17
    assert {section.kind for section in found.sections} == {"full"}
    assert all(section.name in DEVICES for section in found.sections)
    assert found.remarks == ()


def test_the_real_record_is_decoded_field_by_field() -> None:
    """Against what the machine was: its processors had not run in QEMU."""
    fields = {(one.name, one.instance_id): one.decode(REAL, "7.2") for one in walk(REAL).sections}
    assert fields["PCIBUS", 0]["nirq"] == len(fields["PCIBUS", 0]["irq_count"]) == 128
    assert fields["cpu", 1]["env.eip"] == 0xFFF0
    assert len(fields["cpu", 0]["env.regs"]) == 8  # Xen starts the QEMU of 32 bits
    assert fields["cpu", 0]["cpu/poll_control_msr"] == {"env.poll_control_msr": 0}
    config = bytes.fromhex(fields["platform", 0]["parent_obj"]["config[0]"])
    assert config[:4] == bytes.fromhex("53580100")  # XenSource, platform device
    floppy = fields["fdc", 0]["state"]
    assert floppy["fifo"] == bytes(512).hex()
    assert all("fdrive/media_rate" in floppy[f"drives[{number}]"] for number in (0, 1))
    assert fields["hpet", 0]["num_timers"] == len(fields["hpet", 0]["timer"]) == 3


def test_a_known_device_is_only_believed_where_the_next_section_follows() -> None:
    timer = header(0, b"timer", version=2) + bytes(24)
    found = walk(HEAD + timer + header(1, b"unheard_of") + b"12345" + b"\0")
    assert [(s.found_by, s.data_size_bytes) for s in found.sections] == [
        ("known", 24), ("heuristic", 5),
    ]  # fmt: skip
    assert found.fits == ()
    assert found.remarks == ("no description is known that fits unheard_of",)
    longer = header(0, b"timer", version=2) + bytes(25)
    found = walk(HEAD + longer + header(1, b"unheard_of") + b"\0")
    assert [s.found_by for s in found.sections] == ["heuristic", "heuristic"]
    assert not any(s.shapes for s in found.sections)


def test_the_sections_of_the_real_record_cover_it_without_gaps() -> None:
    sections = walk(REAL).sections
    assert sections[0].offset == len(HEAD)
    for one, following in pairwise(sections):
        assert one.data_offset + one.data_size_bytes == following.offset
    last = sections[-1]
    assert last.data_offset + last.data_size_bytes == len(REAL) - 1


def test_the_subsections_of_the_real_record_lie_in_the_devices_they_belong_to() -> None:
    data = {
        (s.name, s.instance_id): REAL[s.data_offset :][: s.data_size_bytes]
        for s in walk(REAL).sections
    }
    assert data["cpu", 0].count(b"\x05\x14cpu/poll_control_msr") == 1
    assert data["cpu", 1].count(b"\x05\x14cpu/poll_control_msr") == 1
    assert data["fdc", 0].count(b"\x05\x11fdrive/media_rate") == 2
    assert data["piix4_pm", 0].count(b"\x05\x0epiix4_pm/memhp") == 1
    assert len(data["cpu", 0]) == len(data["cpu", 1])


def test_equal_devices_have_equal_sizes_in_the_real_record() -> None:
    dma = [s.data_size_bytes for s in walk(REAL).sections if s.name == "dma"]
    assert dma == [75, 75]


def test_a_false_start_just_before_a_header_does_not_hide_it() -> None:
    blob = HEAD + header(0, b"timer") + b"\4\0" + header(1, b"PCIBUS") + b"\1\2\0"
    assert [(s.name, s.data_size_bytes) for s in walk(blob).sections] == [
        ("timer", 2), ("PCIBUS", 2),
    ]  # fmt: skip


def test_a_header_inside_data_with_an_id_that_does_not_go_up_is_passed_over() -> None:
    blob = HEAD + header(5, b"cpu") + header(5, b"inner") + header(6, b"hpet") + b"\0"
    assert [s.name for s in walk(blob).sections] == ["cpu", "hpet"]


@pytest.mark.parametrize(
    "implausible",
    [
        header(1000, b"name"),
        header(1, b"n"),
        header(1, b"/name"),
        header(1, b"na\x7fe"),
        header(1, b"name", instance=1 << 16),
        header(1, b"name", version=1 << 16),
        header(1, b"name")[:-1],
    ],
)
def test_what_is_no_plausible_header_is_data(implausible: bytes) -> None:
    blob = HEAD + header(0, b"timer") + implausible + b"\0"
    (section,) = walk(blob).sections
    assert section.data_size_bytes == len(implausible)


@pytest.mark.parametrize(
    ("idstr", "path", "name"),
    [
        (b"0000:00:01.3/piix4_pm", "0000:00:01.3", "piix4_pm"),
        (b"00:02.0/e1000", "00:02.0", "e1000"),
        (b"slirp/0", "", "slirp/0"),
        (b"PCIBUS", "", "PCIBUS"),
    ],
)
def test_the_path_of_a_pci_device_is_told_from_its_name(idstr: bytes, path: str, name: str) -> None:
    (section,) = walk(HEAD + header(0, idstr) + b"\0").sections
    assert (section.path, section.name) == (path, name)


def test_footers_are_followed_even_if_the_data_looks_like_headers_and_footers() -> None:
    hostile = header(9, b"false") + footer(0) + b"\xffmore" + footer(0)[:4]
    blob = (
        HEAD
        + header(0, b"timer") + hostile + footer(0)
        + header(1, b"hpet") + footer(1)
        + b"\0"
    )  # fmt: skip
    assert [(s.name, s.data_size_bytes, s.found_by) for s in walk(blob).sections] == [
        ("timer", len(hostile), "footer"), ("hpet", 0, "footer"),
    ]  # fmt: skip


def test_a_full_migration_stream_is_walked_and_recognised() -> None:
    configuration = (
        b"\x07" + u32(8) + b"pc-i440x"
        + b"\x05\x1econfiguration/target-page-bits" + u32(1) + u32(12)
        + b"\x05\x1aconfiguration/capabilities" + u32(1) + u32(1) + b"\3abc"
        + b"\x05\x12configuration/uuid" + u32(1) + bytes(16)
    )  # fmt: skip
    blob = (
        HEAD + configuration
        + b"\x08" + b"\0\1" + b"\0\2" + b"xy"
        + header(2, b"ram", version=4, kind=START) + b"blocks" + footer(2)
        + bytes([PART]) + u32(2) + bytes(4096) + footer(2)
        + bytes([END]) + u32(2) + bytes(100) + footer(2)
        + header(3, b"timer", version=2) + b"t" * 24 + footer(3)
        + b"\0"
    )  # fmt: skip
    found = walk(blob)
    assert found.machine == "pc-i440x"
    assert [(s.kind, s.name, s.data_size_bytes) for s in found.sections] == [
        ("start", "ram", 6), ("part", "ram", 4096), ("end", "ram", 100), ("full", "timer", 24),
    ]  # fmt: skip
    assert found.remarks == (
        "it has a section ram: this is a full migration stream, not a record for Xen",
    )


@pytest.mark.parametrize("with_footers", [False, True])
def test_a_description_gives_exact_sizes(with_footers: bool) -> None:
    cpu = bytes(4) * 8 + header(7, b"false") + b"\x05\x05cpu/x" + u32(1) + b"abc"
    timer = bytes(24)
    devices = (
        {
            "name": "timer", "instance_id": 0, "version": 2,
            "fields": [{"name": "ticks", "size": 8, "array_len": 3}],
        },
        {
            "name": "cpu", "instance_id": 1, "version": 12,
            "fields": [
                {"name": "regs", "size": 4, "array_len": 8},
                {"name": "inner", "size": len(header(7, b"false")), "struct": {"fields": []}},
            ],
            "subsections": [{"vmsd_name": "cpu/x", "version": 1, "fields": [{"size": 3}]}],
        },
    )  # fmt: skip
    blob = (
        HEAD
        + header(0, b"timer") + timer + footer(0) * with_footers
        + header(1, b"cpu", instance=1) + cpu + footer(1) * with_footers
        + b"\0" + described(*devices)
    )  # fmt: skip
    found = walk(blob)
    assert [(s.name, s.data_size_bytes, s.found_by) for s in found.sections] == [
        ("timer", 24, "description"), ("cpu", len(cpu), "description"),
    ]  # fmt: skip
    assert found.remarks == ()


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"{}",
        b'{"devices": 3}',
        b'{"devices": [3]}',
        b'{"devices": [{"name": "timer", "instance_id": Infinity}]}',
        b'{"devices": [{"name": [], "instance_id": 0}]}',
        b'{"devices": [{"name": "timer", "instance_id": 0, "fields": [{"size": -9}]}]}',
        b'{"devices": [{"name": "timer", "instance_id": 0, "fields": [{"size": 1e999}]}]}',
        b'{"devices": [{"name": "timer", "instance_id": 0, "fields": [{"size": "\xff"}]}]}',
        b"[" * 100_000,
    ],
)
def test_a_nonsensical_description_is_passed_over(text: bytes) -> None:
    blob = HEAD + header(0, b"timer") + b"123" + b"\0\x06" + u32(len(text)) + text
    (section,) = walk(blob).sections
    assert section.name == "timer"


def test_what_is_unlike_a_record_for_xen_is_remarked() -> None:
    assert walk(HEAD + b"\0").remarks == ()
    assert walk(HEAD + b"\x55\1").remarks == (
        "no section begins at offset 8", "the last byte is no end mark",
    )  # fmt: skip
    assert walk(b"QEVM\0\0\0\2" + b"whatever").sections == ()


def test_the_number_of_sections_is_bounded() -> None:
    part = bytes([PART]) + u32(0) + footer(0)
    start = header(0, b"ram", kind=START) + footer(0)
    found = walk(HEAD + start + part * (MAX_SECTIONS + 5) + b"\0")
    assert len(found.sections) == MAX_SECTIONS
    assert f"only the first {MAX_SECTIONS} sections are listed" in found.remarks


def test_what_only_looks_like_headers_and_footers_is_not_looked_at_for_ever() -> None:
    more = 3 * MAX_FALSE
    (section,) = walk(HEAD + header(1, b"cpu") + footer(1) * more + b"\0").sections
    assert section.data_size_bytes == 5 * more
    (section,) = walk(HEAD + header(1, b"cpu") * more + b"\0").sections
    assert section.data_size_bytes == len(header(1, b"cpu")) * (more - 1)


def test_what_is_tried_to_find_the_fitting_description_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("xsave_plugins.qemu_device.savevm.MAX_VALUES_TRIED", 1000)
    found_by = [section.found_by for section in walk(REAL).sections]
    assert found_by[0] == "known"
    assert found_by[-1] == "heuristic"


pieces = st.one_of(
    st.binary(max_size=20),
    st.builds(header, st.integers(0, 20), st.binary(max_size=8) | st.just(b"cpu")),
    st.builds(footer, st.integers(0, 20)),
    st.sampled_from(
        [b"\0", b"\1\0\0\0\0\2abcdefghij", b"\2\0\0\0\0", b"\7\0\0\0\2ab\5\x1a", b"\x08"]
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=8).map(b"".join))
def test_any_bytes_are_walked_and_sections_stay_within_them(tail: bytes) -> None:
    blob = HEAD + tail + b"\0"
    sections = walk(blob).sections
    for section in sections:
        assert len(HEAD) <= section.offset < section.data_offset
        assert section.data_offset + section.data_size_bytes <= len(blob)
    for one, following in pairwise(sections):
        assert one.data_offset + one.data_size_bytes <= following.offset


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), nr_changes=st.integers(1, 40))
def test_damage_in_the_real_record_never_raises(seed: int, nr_changes: int) -> None:
    generator = random.Random(seed)
    blob = bytearray(REAL)
    for _ in range(nr_changes):
        blob[generator.randrange(len(HEAD), len(blob))] = generator.randrange(256)
    walk(bytes(blob[: generator.randrange(9, len(blob) + 1)]))
