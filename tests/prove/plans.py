"""What goes wrong in a run: drawn from a seed, spread over the moments that matter."""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import evolve, field, frozen

from .laboratory import Doomed

KINDS = ("pv", "pvh", "hvm")
# States of the journal, and how many things a process asks of the system in each, roughly.
SOURCE_STATES = {"sending": 60, "given": 14, "gone": 8}
DEST_STATES = {"receiving": 60, "ready": 12, "owned": 12, "running": 8, "closed": 4}
HANDOVER = ("ready", "given", "owned", "running", "gone")


@frozen
class Trigger:
    """When something happens: as soon as an entry of the journal at an ``end`` has a state,
    when so many bytes have passed in a direction, or after so many seconds; and then
    ``after_s`` later."""

    end: str = ""
    state: str = ""
    direction: str = ""
    nr_bytes: int = 0
    after_s: float = 0.0

    def __str__(self) -> str:
        later = f" and {1e3 * self.after_s:.1f} ms" if self.after_s else ""
        if self.state:
            return f"{'source' if self.end == 'one' else 'destination'} is {self.state}{later}"
        if self.direction:
            return f"{self.nr_bytes} bytes {self.direction}{later}"
        return f"{1e3 * self.after_s:.0f} ms"


@frozen
class Deed:
    """:ivar what: ``kill source``, ``kill destination``, ``kill both``, ``cut``, ``cut for
    good`` or ``stall``."""

    trigger: Trigger
    what: str

    def __str__(self) -> str:
        return f"{self.what} at {self.trigger}"


@frozen
class Plan:
    """:ivar guest: what its address has beside its name.
    :ivar source, dest: where these processes kill themselves.
    :ivar delay_s: of everything on the link, one way.
    """

    number: int
    story: str
    guest: str
    source: Doomed | None = None
    dest: Doomed | None = None
    deeds: tuple[Deed, ...] = ()
    delay_s: float = 0.0
    transport: str = "tcp"
    options: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        parts = [f"{self.story}: {self.guest} over {self.transport}", *map(str, self.deeds)]
        for end, doomed in (("source", self.source), ("destination", self.dest)):
            if doomed is not None:
                parts.append(f"{end} ends at {doomed}")
        if self.delay_s:
            parts.append(f"delay {1e3 * self.delay_s:.0f} ms")
        return "; ".join([*parts, *self.options])


@frozen
class Scale:
    """Of an undisturbed migration: bytes each way, and seconds."""

    there: int
    back: int
    seconds: float


def draw(seed: int, number: int, scale: Scale) -> Plan:
    """The same for the same seed and number; the scale only stretches it."""
    rng = random.Random(f"{seed}/{number}")
    story, tell = rng.choices(list(STORIES.items()), [WEIGHTS[name] for name in STORIES])[0]
    kind = rng.choice(KINDS)
    plan = Plan(
        number, story,
        f"{kind}?memory=8M&dirty={rng.choice((0, 2, 20))}M/s&seed={rng.randrange(1 << 30)}"
        f"{rng.choice(('', '', '&tmem=60'))}",
        delay_s=rng.choice((0.0, 0.0, 0.002, 0.01)),
        transport=rng.choices(("tcp", "tls"), (3, 1))[0],
        options=("--no-live",) if rng.random() < 0.15 else (),
    )  # fmt: skip
    return tell(rng, plan, scale)


def _source(rng: random.Random) -> Doomed:
    state = rng.choices(list(SOURCE_STATES), (2, 4, 2))[0]
    return Doomed("source", state, rng.randrange(SOURCE_STATES[state]))


def _dest(rng: random.Random) -> Doomed:
    state = rng.choices(list(DEST_STATES), (2, 3, 4, 2, 1))[0]
    return Doomed("destination", state, rng.randrange(DEST_STATES[state]))


def _kill_source_exactly(rng: random.Random, plan: Plan, _scale: Scale) -> Plan:
    return evolve(plan, source=_source(rng))


def _kill_dest_exactly(rng: random.Random, plan: Plan, _scale: Scale) -> Plan:
    return evolve(plan, dest=_dest(rng))


def _kill_both_exactly(rng: random.Random, plan: Plan, _scale: Scale) -> Plan:
    return evolve(plan, source=_source(rng), dest=_dest(rng))


def _kill_at_state(rng: random.Random, plan: Plan, _scale: Scale) -> Plan:
    return evolve(plan, deeds=(Deed(_at_state(rng), _victim(rng)),))


def _kill_at_byte(rng: random.Random, plan: Plan, scale: Scale) -> Plan:
    return evolve(plan, deeds=(Deed(_at_byte(rng, scale), _victim(rng)),))


def _kill_at_time(rng: random.Random, plan: Plan, scale: Scale) -> Plan:
    trigger = Trigger(after_s=rng.random() * 1.3 * scale.seconds)
    return evolve(plan, deeds=(Deed(trigger, _victim(rng)),))


def _cut_and_mended(rng: random.Random, plan: Plan, scale: Scale) -> Plan:
    cuts = [Deed(_at_byte(rng, scale), "cut") for _ in range(rng.randint(1, 3))]
    return evolve(plan, deeds=tuple(cuts))


def _cut_for_good(rng: random.Random, plan: Plan, scale: Scale) -> Plan:
    """And perhaps an end is killed while it gives up."""
    trigger = _at_state(rng) if rng.random() < 0.6 else _at_byte(rng, scale)
    plan = evolve(plan, deeds=(Deed(trigger, "cut for good"),))
    draw = rng.random()
    if draw < 0.25:
        return evolve(plan, source=Doomed("source", "kept", rng.randrange(4)))
    if draw < 0.5:
        state = rng.choice(("abandoned", "cleared"))
        return evolve(plan, dest=Doomed("destination", state, rng.randrange(6)))
    return plan


def _cut_and_kill(rng: random.Random, plan: Plan, scale: Scale) -> Plan:
    first = Deed(_at_state(rng), "cut for good")
    second = Deed(evolve(first.trigger, after_s=rng.uniform(0, 0.5)), _victim(rng))
    return evolve(plan, deeds=(first, second))


def _stall(rng: random.Random, plan: Plan, scale: Scale) -> Plan:
    trigger = _at_state(rng) if rng.random() < 0.6 else _at_byte(rng, scale)
    deeds = [Deed(trigger, "stall")]
    if rng.random() < 0.6:
        deeds.append(Deed(evolve(trigger, after_s=rng.uniform(0, 0.3)), _victim(rng)))
    return evolve(plan, deeds=tuple(deeds))


def _undisturbed(_rng: random.Random, plan: Plan, _scale: Scale) -> Plan:
    return plan


def _victim(rng: random.Random) -> str:
    return rng.choices(("kill source", "kill destination", "kill both"), (4, 4, 2))[0]


def _at_state(rng: random.Random) -> Trigger:
    states = [("one", state) for state in SOURCE_STATES] + [("two", state) for state in DEST_STATES]
    end, state = rng.choices(states, [4 if state in HANDOVER else 1 for _, state in states])[0]
    after_s = rng.choice((0.0, rng.expovariate(300), rng.uniform(0, 0.05)))
    return Trigger(end=end, state=state, after_s=after_s)


def _at_byte(rng: random.Random, scale: Scale) -> Trigger:
    """What comes back is short, and most of it belongs to the handover."""
    if rng.random() < 0.6:
        return Trigger(direction="back", nr_bytes=int(rng.random() * scale.back))
    return Trigger(direction="there", nr_bytes=int(rng.random() * scale.there))


STORIES: dict[str, Callable[[random.Random, Plan, Scale], Plan]] = {
    "source killed exactly": _kill_source_exactly,
    "destination killed exactly": _kill_dest_exactly,
    "both killed exactly": _kill_both_exactly,
    "killed at a state": _kill_at_state,
    "killed at a byte": _kill_at_byte,
    "killed at a time": _kill_at_time,
    "link cut and mended": _cut_and_mended,
    "link cut for good": _cut_for_good,
    "link cut and killed": _cut_and_kill,
    "link stalled": _stall,
    "undisturbed": _undisturbed,
}
WEIGHTS = {
    "source killed exactly": 20, "destination killed exactly": 20, "both killed exactly": 10,
    "killed at a state": 12, "killed at a byte": 8, "killed at a time": 8,
    "link cut and mended": 6, "link cut for good": 8, "link cut and killed": 4,
    "link stalled": 5, "undisturbed": 1,
}  # fmt: skip
