"""One run: a guest is moved, something goes wrong, both ends are put in order as a person
would, and then there is exactly one guest, with the right memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from attrs import define

from xsave_plugins.sim_host.remote import Hosts

from .laboratory import LOOK_S, HangsError, Laboratory, Process, wait_for
from .plans import Deed, Plan, Scale

OPEN = frozenset({"sending", "stopped", "given", "receiving", "ready", "owned", "abandoned"})
EXIT_UNDECIDED = 9
STALL_S = 0.6
ATTEMPTS = 6  # at `xsave resolve`


class WrongError(Exception):
    """What must never be."""


@define(eq=False)
class Outcome:
    """:ivar killed: whether the source's and the destination's process died.
    :ivar states: of the journals at both ends when that was over.
    :ivar code: exit code of ``xsave migrate``.
    :ivar place: where the guest runs at the end.
    :ivar was_undecided: whether nobody could tell before somebody put it in order.
    """

    plan: Plan
    killed: tuple[bool, bool] = (False, False)
    states: tuple[str, str] = ("-", "-")
    code: int = 0
    place: str = ""
    was_undecided: bool = False
    nr_connections: int = 0


class Run:
    def __init__(self, laboratory: Laboratory, plan: Plan) -> None:
        self._lab = laboratory
        self._way = laboratory.ways[plan.transport]
        self._plan = plan
        self._name = f"g{plan.number}"
        self._over = threading.Event()
        self._timers: list[threading.Timer] = []
        self._watchers: list[threading.Thread] = []
        self.outcome = Outcome(plan)

    def go(self) -> Outcome:
        """:raises WrongError: never lost, never twice did not hold.
        :raises HangsError: something never ended.
        """
        lab, way, plan = self._lab, self._way, self._plan
        lab.boot(f"{plan.guest}&name={self._name}&prove=yes")
        receiver = lab.receive(way, plan.dest)
        way.relay.delay_s = plan.delay_s
        connections = way.relay.nr_connections
        before = {direction: way.relay.passed[direction] for direction in ("there", "back")}
        migration = lab.migrate(way, self._name, plan.source, *plan.options)
        for deed in plan.deeds:
            self._watch(deed, migration, receiver, before)
        try:
            self.outcome.code = migration.wait()
        finally:
            self._over.set()
            for watcher in self._watchers:
                watcher.join()
            way.relay.forget_marks()
            for timer in self._timers:
                timer.join()
        self.outcome.killed = migration.was_killed, receiver.was_killed
        self.outcome.states = self._states()
        self.outcome.nr_connections = way.relay.nr_connections - connections
        self._check_exit(migration)
        self._put_in_order(migration)
        self._check()
        return self.outcome

    # -- what goes wrong -----------------------------------------------------------------

    def _watch(self, deed: Deed, migration: Process, receiver: Process, before: Any) -> None:
        trigger = deed.trigger

        def act() -> None:
            if trigger.after_s:
                self._over.wait(trigger.after_s)
            self._do(deed.what, migration, receiver)

        if trigger.direction:
            at = before[trigger.direction] + trigger.nr_bytes
            self._way.relay.when(trigger.direction, at, act)
            return

        def watch() -> None:
            while trigger.state != self._lab.journal(trigger.end).get(self._name, ""):
                if self._over.wait(LOOK_S / 4):
                    return
            act()

        self._watchers.append(threading.Thread(target=watch if trigger.state else act))
        self._watchers[-1].start()

    def _do(self, what: str, migration: Process, receiver: Process) -> None:
        relay = self._way.relay
        if what in ("kill source", "kill both"):
            migration.kill()
        if what in ("kill destination", "kill both"):
            receiver.kill()
        if what == "cut":
            relay.cut()
        if what == "cut for good":
            relay.cut(for_good=True)
        if what == "stall":
            relay.stall()
            self._timers.append(threading.Timer(STALL_S, relay.go_on))
            self._timers[-1].start()

    # -- as a person would -----------------------------------------------------------------

    def _check_exit(self, migration: Process) -> None:
        """What ``migrate`` said when it ended by itself holds at that moment."""
        if migration.was_killed:
            return
        here = self._lab.guest(self._lab.one, self._name)
        code = self.outcome.code
        if code == 0:
            if here is not None:
                raise WrongError(f"migrate says that it went well; the source has {here}")
        elif code == EXIT_UNDECIDED:
            self.outcome.was_undecided = True
            if here is None or here["state"] != "paused":
                raise WrongError(f"migrate says that it is undecided; the source has {here}")
            if "xsave resolve" not in migration.said:
                raise WrongError("migrate does not say how to recover")
        elif here is None or here["state"] != "running":
            raise WrongError(f"migrate ended with {code}; the source has {here}")

    def _put_in_order(self, migration: Process) -> None:
        lab, way = self._lab, self._way
        if any(deed.what == "cut for good" for deed in self._plan.deeds):
            self._try_while_cut(migration)
        way.relay.delay_s = 0.0
        way.relay.go_on()
        way.relay.mend()
        lab.receive(way)
        if not migration.was_killed and self.outcome.code != EXIT_UNDECIDED:
            return
        for _ in range(ATTEMPTS):
            resolving = lab.resolve()
            if resolving.wait() == 0:
                return
            time.sleep(0.5)
        raise WrongError(f"resolve does not get to an end: {resolving.said}")

    def _try_while_cut(self, migration: Process) -> None:
        """Nobody answers: who does not know leaves the guest as it is, and says so."""
        if self._states()[0] != "given":
            return
        before = self._lab.guest(self._lab.one, self._name)
        resolving = self._lab.resolve()
        if (code := resolving.wait()) != EXIT_UNDECIDED:
            raise WrongError(f"resolve could not ask, and ended with {code}: {resolving.said}")
        if "--here" not in resolving.said or "--there" not in resolving.said:
            raise WrongError(f"resolve does not say what else there is: {resolving.said}")
        after = self._lab.guest(self._lab.one, self._name)
        # None where it was killed after it ended its guest, and before it wrote that down.
        if (before is None) != (after is None) or (after and after["state"] == "running"):
            raise WrongError(f"resolve could not ask, and the guest was {before}, is {after}")
        self.outcome.was_undecided = True

    # -- what there is then ---------------------------------------------------------------

    def _check(self) -> None:
        lab, name = self._lab, self._name
        try:
            wait_for("both ends to have ended it", lambda: not set(self._states()) & OPEN)
            wait_for("no guest to be half-built", lambda: self._half_built() is None)
        except HangsError as error:
            raise WrongError(f"{error}: {self._states()}, {self._guests()}") from None
        self._check_never_twice()
        here, there = self._guests()
        if (here is None) == (there is None):
            raise WrongError(f"expected one guest, there are {here} and {there}")
        self.outcome.place = "source" if there is None else "destination"
        guest = here or there
        assert guest is not None
        if (guest["state"], guest["is_logged"], guest["share"]) != ("running", False, 1.0):
            raise WrongError(f"the guest does not run as before: {guest}")
        socket = lab.one if there is None else lab.two
        try:
            wait_for(
                "it to run",
                lambda: (lab.guest(socket, name) or guest)["nr_ticks"] > guest["nr_ticks"],
            )
        except HangsError:
            raise WrongError(f"the guest stands still: {guest}") from None
        if there is not None:
            self._check_memory()

    def _check_never_twice(self) -> None:
        """By the clock that both hosts share: what one says before and the other after."""
        spans = []
        for socket in (self._lab.one, self._lab.two):
            with Hosts(socket) as hosts:
                spans += spans_of(hosts.history(self._name))
        spans.sort()
        for (_, until, first), (since, _, second) in pairwise(spans):
            if since < until:
                raise WrongError(
                    f"the guest ran twice for {(until - since) / 1e6:.3f} ms: {first}, {second}"
                )

    def _check_memory(self) -> None:
        with Hosts(self._lab.one) as hosts:
            left = hosts.proofs()["left"].get(self._name)
        with Hosts(self._lab.two) as hosts:
            arrived = hosts.proofs()["arrived"].get(self._name)
        if left is None or arrived is None:
            raise WrongError("a fingerprint is missing")
        unlike = [what for what in {*left, *arrived} if left.get(what) != arrived.get(what)]
        if unlike:
            raise WrongError(f"the guest did not arrive as it left: {unlike}")

    def _guests(self) -> tuple[Any, Any]:
        lab = self._lab
        return lab.guest(lab.one, self._name), lab.guest(lab.two, self._name)

    def _half_built(self) -> Any:
        return next((one for one in self._guests() if one and one["state"] == "being built"), None)

    def _states(self) -> tuple[str, str]:
        one, two = (self._lab.journal(end).get(self._name, "-") for end in ("one", "two"))
        return one, two


def spans_of(history: Sequence[tuple[int, str, str, str]]) -> list[tuple[int, int, str]]:
    """From when until when each guest ran; one that runs still, until for ever."""
    spans: list[tuple[int, int, str]] = []
    since: dict[str, int] = {}
    for when, guest, _name, what in history:
        if what == "runs":
            since[guest] = when
        elif guest in since:
            spans.append((since.pop(guest), when, guest))
    return spans + [(when, 1 << 63, guest) for guest, when in since.items()]


def measure(laboratory: Laboratory) -> Scale:
    """An undisturbed migration, with which the runs begin."""
    relay = laboratory.ways["tcp"].relay
    began = time.monotonic()
    plan = Plan(-1, "undisturbed", "pv?memory=8M&dirty=2M/s")
    outcome = Run(laboratory, plan).go()
    if outcome.place != "destination":
        raise WrongError("a guest does not even move undisturbed")
    return Scale(relay.passed["there"], relay.passed["back"], time.monotonic() - began)
