"""
What can happen to a deployment. Each fault says how it is seen to have taken effect; one that did not is no fault.

A fault is a function of a `Round`. It returns its evidence in words, or None where it did not take effect: it is tried again
then, and a run whose fault never took effect fails.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

from confluent_kafka import ConsumerGroupTopicPartitions, ElectionType, KafkaException, TopicPartition
from deployment import SESSION_TIMEOUT_S, wait
from fleet import Member
from rounds import Fault, Round

from headrace.testing.servers.toxiproxy import Proxy

RETRIED = ("trying again", "reading again")
LOOKED_UP = "position looked up again"
PATIENCE_S = 30.0


FAULTS: list[Fault] = []


def fault(
    name: str, lakes: tuple[str, ...] = ("disk", "minio", "versity")
) -> Callable[[Callable[[Round], str | None]], None]:
    def keep(fire: Callable[[Round], str | None]) -> None:
        FAULTS.append(Fault(name, fire, lakes))

    return keep


SERVED = ("minio", "versity")


# ---- processes ------------------------------------------------------------------------------------------------------


@fault("process: kill -9")
def kill(world: Round) -> str | None:
    member = world.chance.choice(world.fleet.working())
    time.sleep(world.chance.uniform(0, 1.5))
    member.signal(signal.SIGKILL)
    member.process.wait(10)
    world.fleet.tend()
    return f"{member.name} ended with {member.process.returncode}" if member.process.returncode == -9 else None


@fault("process: kill -9 between a PUT and its acknowledgement")
def kill_behind_a_put(world: Round) -> str | None:
    member = world.chance.choice(world.fleet.working())
    member.signal(signal.SIGUSR2)
    member.ended_by_us = True
    with contextlib.suppress(TimeoutError):
        wait(lambda: not member.running, 20, "it dies")
    member.signal(signal.SIGKILL)
    member.process.wait(10)
    world.fleet.tend()
    return f"{member.name} died behind a PUT" if member.process.returncode == -9 else None


@fault("process: SIGSTOP past the session timeout, SIGCONT")
def zombie(world: Round) -> str | None:
    """At any moment. Evidence: others stored records of its partitions while it slept, and it woke up and learnt of it."""
    return put_to_sleep(world, in_front_of_a_put=False)


@fault("process: SIGSTOP in front of a PUT, past the session timeout, SIGCONT")
def zombie_at_a_put(world: Round) -> str | None:
    """Evidence: others stored what it was about to store, and then its PUT was sent, and refused."""
    return put_to_sleep(world, in_front_of_a_put=True)


def put_to_sleep(world: Round, *, in_front_of_a_put: bool) -> str | None:
    if len(world.fleet.working()) < 2:
        world.fleet.add()
        world.fleet.wait_for_work(2)
    member = world.chance.choice(world.fleet.working())
    places = {other.name: other.place() for other in world.fleet.members}
    time.sleep(world.chance.uniform(0.5, 2.0))
    member.asleep = True
    member.signal(signal.SIGUSR1 if in_front_of_a_put else signal.SIGSTOP)
    try:
        with contextlib.suppress(TimeoutError):
            wait(lambda: member.stopped or not member.running, 30, "it stops")
        ours = world.partitions_of(member)
        slept_s = time.monotonic()

        def taken() -> bool:
            long = time.monotonic() - slept_s > SESSION_TIMEOUT_S + 2
            return long and bool(ours & stored_by(world, member, places))

        with contextlib.suppress(TimeoutError):
            wait(taken, 40, "another member stores what the sleeper held")
        others = stored_by(world, member, places) & ours
    finally:
        woken = member.place()
        member.signal(signal.SIGCONT)
        member.asleep = False
    with contextlib.suppress(TimeoutError):
        wait(lambda: told(member, woken, in_front_of_a_put) or not member.running, 30, "the sleeper learns of it")
    world.fleet.tend()
    refused = sum(not line["stored"] for line in member.said("put after sleep", woken))
    world.note("writes of woken zombies that were refused", refused)
    if not others or not told(member, woken, in_front_of_a_put) or (in_front_of_a_put and not refused):
        return None
    more = ", and its write was refused" if refused else ""
    return f"{member.name} slept, {len(others)} of its partitions went on without it{more}"


def told(member: Member, since: int, in_front_of_a_put: bool) -> bool:
    return bool(member.said("put after sleep", since) if in_front_of_a_put else member.lines(since))


def stored_by(world: Round, sleeper: Member, places: dict[str, int]) -> set[int]:
    """The partitions that anybody but the sleeper has stored of, since then."""
    return {
        int(line["partition"])
        for other in world.fleet.everybody()
        if other is not sleeper
        for line in other.said("segment stored", places.get(other.name, 0))
    }


@fault("process: SIGTERM in the middle of a PUT")
def terminate(world: Round) -> str | None:
    """Evidence: it stored a segment after the signal, and ended with 0."""
    member = world.chance.choice(world.fleet.working())
    with world.lake_slowed(1500):
        time.sleep(2.0)
        place = member.place()
        code = world.fleet.remove(member)
        stored = len(member.said("segment stored", place))
    world.fleet.add()
    return (
        f"{member.name} stored {stored} segments after SIGTERM and ended with {code}" if stored and code == 0 else None
    )


@fault("process: scaled from 1 to 4 and back")
def scale(world: Round) -> str | None:
    """Evidence: four members owned partitions at one time, and then one did."""
    while len(world.fleet.members) > 1:
        world.fleet.remove(world.fleet.members[-1])
    world.fleet.tend()
    world.fleet.wait_for_work(1)
    while len(world.fleet.members) < 4:
        world.fleet.add()
    with contextlib.suppress(TimeoutError):
        world.fleet.wait_for_work(4, 90)
    most = len(world.fleet.working())
    time.sleep(2)
    while len(world.fleet.members) > 1:
        world.fleet.remove(world.fleet.members[0])
    world.fleet.wait_for_work(1)
    world.fleet.add()
    return f"{most} members had partitions at one time" if most == 4 else None


@fault("process: a second deployment writes the same lake")
def rival(world: Round) -> str | None:
    """Another group reads the same partitions. Evidence: one was refused; where nothing ever is, that both stored."""
    before, places = world.fleet.said(LOOKED_UP), {m.name: m.place() for m in world.fleet.members}
    other = world.fleet.add(world.fleet.source.replace("group=", "group=rival-"))
    other.wanted = False

    def stored() -> tuple[int, int]:
        ours = [m for m in world.fleet.members if m.name in places]
        return len(other.said("segment stored")), sum(len(m.said("segment stored", places[m.name])) for m in ours)

    def refused() -> int:
        return world.fleet.said(LOOKED_UP) - before

    def met() -> bool:
        if world.fleet.without == "condition":
            return min(stored()) > world.partitions
        return refused() > 0 and stored()[0] > 0

    with contextlib.suppress(TimeoutError):
        wait(met, 60, "both meet")
    (theirs, ours), count = stored(), refused()
    world.fleet.remove(other)
    world.fleet.tend()
    if not (count and (theirs or ours)) and not (world.fleet.without == "condition" and theirs and ours):
        return None
    return f"it stored {theirs} segments, ours {ours}; {count} writes were refused"


@fault("process: two consumers with the same identity")
def same_identity(world: Round) -> str | None:
    """A second member with the same group.instance.id. Evidence: both ran at once, and the group refused one of them."""
    member = world.fleet.add(slot=77)
    member.wanted = False
    with contextlib.suppress(TimeoutError):
        wait(lambda: bool(member.owned()) or not member.running, 45, "the first has partitions")
    twin = world.fleet.add(slot=77)
    twin.wanted = False

    def refused() -> list[str]:
        words = ("FENCED_INSTANCE", "UNRELEASED_INSTANCE", "instance")
        return [
            text
            for m in (member, twin)
            for line in m.lines()
            if any(word in (text := str(line.get("error") or line.get("text") or line.get("event"))) for word in words)
        ]

    with contextlib.suppress(TimeoutError):
        wait(lambda: bool(refused()), 45, "the group refuses one of them")
    found = refused()
    for each in (member, twin):
        if each.running:
            world.fleet.remove(each, world.chance.choice((signal.SIGTERM, signal.SIGKILL)))
    world.fleet.tend()
    return f"the group said: {found[0][:120]}" if found else None


@fault("group: committed offsets forged")
def forge(world: Round) -> str | None:
    """An operator resets the group to anything while nobody runs. Evidence: the brokers took it."""
    count = len(world.fleet.members)
    while world.fleet.members:
        world.fleet.remove(world.fleet.members[0], world.chance.choice((signal.SIGTERM, signal.SIGKILL)))
    world.fleet.tend()
    ends = world.ends()
    forged = {number: world.chance.randrange(end + 50) for number, end in ends.items()}

    def taken() -> bool:
        places = [TopicPartition(world.topic, number, offset) for number, offset in forged.items()]
        asked = world.brokers.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(world.group, places)])
        return all(tp.error is None for answer in asked.values() for tp in answer.result(10).topic_partitions)

    with contextlib.suppress(TimeoutError):
        wait(taken, 45, "the group is empty and takes offsets")
    done = taken_quietly(taken)
    for _ in range(max(1, count)):
        world.fleet.add()
    world.fleet.wait_for_work(1)
    return f"{len(forged)} offsets were set to anything" if done else None


def taken_quietly(taken: Callable[[], bool]) -> bool:
    try:
        return taken()
    except KafkaException:
        return False


# ---- brokers --------------------------------------------------------------------------------------------------------


def healthy(world: Round) -> None:
    wait(lambda: world.brokers.in_sync(world.topic), 90, "all replicas are in sync")


@fault("broker: kill -9 and restart")
def kill_broker(world: Round) -> str | None:
    """Evidence: its process was killed, and its partitions had another leader."""
    healthy(world)
    before = world.brokers.leaders(world.topic)
    broker = world.chance.choice([b for b in world.brokers.cluster.brokers if b.number in before.values()])
    broker.kill()
    try:
        wait(lambda: broker.number not in world.brokers.leaders(world.topic).values(), 30, "others lead")
        time.sleep(world.chance.uniform(0, 4))
    finally:
        broker.start()
    healthy(world)
    moved = sum(leader == broker.number for leader in before.values())
    return f"broker {broker.number} was killed, {moved} partitions got another leader"


@fault("broker: leaders move")
def move_leaders(world: Round) -> str | None:
    """Evidence: partitions have other leaders than before."""
    healthy(world)
    broker = world.chance.choice(world.brokers.cluster.brokers)
    broker.stop()
    broker.start()
    healthy(world)
    before = world.brokers.leaders(world.topic)
    places = [TopicPartition(world.topic, number) for number in before]
    with contextlib.suppress(KafkaException):
        world.brokers.admin.elect_leaders(ElectionType.PREFERRED, places).result(30)
    with contextlib.suppress(TimeoutError):
        wait(lambda: world.brokers.leaders(world.topic) != before, 10, "leaders moved")
    moved = sum(leader != before[number] for number, leader in world.brokers.leaders(world.topic).items())
    return f"{moved} partitions changed their leader" if moved else None


@fault("broker: rolling restart")
def roll(world: Round) -> str | None:
    """Evidence: each was stopped and started."""
    for broker in world.brokers.cluster.brokers:
        healthy(world)
        broker.stop()
        broker.start()
    healthy(world)
    return f"{len(world.brokers.cluster.brokers)} brokers, one after the other"


# ---- the lake's server ----------------------------------------------------------------------------------------------


@fault("S3 server: kill -9 and restart", SERVED)
def kill_server(world: Round) -> str | None:
    """Evidence: its process was killed while headrace wanted something of it."""
    assert world.lake.server is not None
    before = world.fleet.said(*RETRIED)
    world.lake.server.kill()
    try:
        with contextlib.suppress(TimeoutError):
            wait(lambda: world.fleet.said(*RETRIED) > before, 45, "headrace tries again")
    finally:
        world.lake.server.start()
    tried = world.fleet.said(*RETRIED) - before
    return f"killed; headrace tried again {tried} times" if tried else None


@fault("disk full")
def fill(world: Round) -> str | None:
    """Evidence: headrace was told so, and tried again."""
    if not world.lake.disk.mounted:
        return None
    before = world.fleet.said(*RETRIED)
    with world.lake.disk.full():
        with contextlib.suppress(TimeoutError):
            wait(lambda: world.fleet.said(*RETRIED) > before, 45, "headrace tries again")
        time.sleep(world.chance.uniform(0, 3))
    tried = world.fleet.said(*RETRIED) - before
    return f"headrace tried again {tried} times" if tried else None


# ---- connections ----------------------------------------------------------------------------------------------------

Toxics = Callable[["Round", Proxy], contextlib.AbstractContextManager[None]]


def spoil(world: Round, proxies: list[Proxy], toxic: Toxics, noticed: Callable[[], int]) -> tuple[int, int]:
    """
    Spoil connections for some seconds, and for some more until it is noticed.

    Returns:
        How many connections went through the proxies at one time, and how often it was noticed.
    """
    before, connections = noticed(), 0
    with contextlib.ExitStack() as stack:
        for proxy in proxies:
            stack.enter_context(toxic(world, proxy))
        began_s, least_s = time.monotonic(), world.chance.uniform(5, 9)
        while (past_s := time.monotonic() - began_s) < least_s or (noticed() == before and past_s < PATIENCE_S):
            connections = max(connections, sum(proxy.connections() for proxy in proxies))
            time.sleep(0.2)
    return connections, noticed() - before


def complaints(world: Round) -> int:
    return sum(line.get("logger") == "headrace.kafka.client" for m in world.fleet.everybody() for line in m.lines())


def at_the_lake(name: str, toxic: Toxics) -> None:
    """A fault of the connections to the lake. Evidence: there were some, and headrace tried again."""

    def fire(world: Round) -> str | None:
        assert world.lake.proxy is not None
        connections, tried = spoil(world, [world.lake.proxy], toxic, lambda: world.fleet.said(*RETRIED))
        return f"up to {connections} connections; headrace tried again {tried} times" if tried else None

    FAULTS.append(Fault(f"S3 connections: {name}", fire, SERVED))


def at_the_brokers(name: str, toxic: Toxics) -> None:
    """A fault of the connections to all brokers. Evidence: there were some, and the client noticed, or headrace tried again."""

    def fire(world: Round) -> str | None:
        connections, noticed = spoil(
            world, world.brokers.proxies, toxic, lambda: world.fleet.said(*RETRIED) + complaints(world)
        )
        return f"up to {connections} connections; headrace noticed {noticed} times" if noticed else None

    FAULTS.append(Fault(f"Kafka connections: {name}", fire))


@contextlib.contextmanager
def slow(proxy: Proxy, latency_ms: int) -> Iterator[None]:
    """Both ways take longer, and requests are throttled."""
    with (
        proxy.toxic("latency", latency=latency_ms, jitter=latency_ms // 2),
        proxy.toxic("latency", up=True, latency=latency_ms, jitter=latency_ms // 2),
        proxy.toxic("bandwidth", up=True, rate=256),
    ):
        yield


def slow_link(name: str, proxies: Callable[[Round], list[Proxy]], lakes: tuple[str, ...]) -> None:
    """Evidence: headrace had connections through it, and a request of ours took as long as it should."""

    def fire(world: Round) -> str | None:
        latency_ms = world.chance.choice((50, 400))
        with contextlib.ExitStack() as stack:
            for proxy in proxies(world):
                stack.enter_context(slow(proxy, latency_ms))
            took_s, connections = proxies(world)[0].round_trip_s(), 0
            end_s = time.monotonic() + world.chance.uniform(5, 9)
            while time.monotonic() < end_s:
                connections = max(connections, sum(proxy.connections() for proxy in proxies(world)))
                time.sleep(0.2)
        if not connections or took_s < latency_ms / 2000:  # jitter takes up to a half
            return None
        return f"up to {connections} connections; a round trip took {took_s * 1000:.0f} ms"

    FAULTS.append(Fault(name, fire, lakes))


at_the_lake("reset", lambda w, p: p.toxic("reset_peer", timeout=w.chance.choice((0, 5, 50)), share=0.5))
at_the_lake("black hole", lambda _, p: p.toxic("timeout", timeout=0))
at_the_lake("replies lost", lambda _, p: p.toxic("limit_data", bytes=0, share=0.7))
at_the_lake("replies truncated", lambda w, p: p.toxic("limit_data", bytes=w.chance.randrange(20, 400), share=0.7))
at_the_lake(
    "requests truncated", lambda w, p: p.toxic("limit_data", up=True, bytes=w.chance.randrange(200, 3000), share=0.7)
)
slow_link("S3 connections: slow", lambda world: [world.lake.proxy] if world.lake.proxy else [], SERVED)

at_the_brokers("reset", lambda w, p: p.toxic("reset_peer", timeout=w.chance.choice((0, 50, 500)), share=0.7))
at_the_brokers("black hole", lambda _, p: p.toxic("timeout", timeout=0))
at_the_brokers("replies truncated", lambda w, p: p.toxic("limit_data", bytes=w.chance.randrange(50, 20_000)))
slow_link("Kafka connections: slow", lambda world: world.brokers.proxies, ("disk", *SERVED))
