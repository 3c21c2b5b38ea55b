"""What breaks: each fault is made to happen, lasts a moment, and is taken back."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from deployment import Deployment, wait

ENDS_A_PROCESS = ("producer: kill -9", "producer: SIGTERM", "bronze: kill -9", "bronze: SIGTERM")
"""Only in the first part of a run: the second part shows whether the memory of a process grows."""

Fire = Callable[[Deployment, random.Random], None]
FAULTS: dict[str, Fire] = {}


def fault(name: str) -> Callable[[Fire], Fire]:
    def add(fire: Fire) -> Fire:
        FAULTS[name] = fire
        return fire

    return add


def listening(world: Deployment) -> bool:
    return world.market.say("look")["listening"] > 0


# ---- between the exchange and the producer --------------------------------------------------------------------------


@fault("feed: connection reset")
def reset(world: Deployment, _: random.Random) -> None:
    before = world.market.say("look")["connections"]
    with world.feed_proxy.toxic("reset_peer", timeout=0):
        time.sleep(0.5)
    wait(lambda: world.market.say("look")["connections"] > before, 30, "it connects again")


@fault("feed: cut inside a frame")
def cut(world: Deployment, chance: random.Random) -> None:
    with world.feed_proxy.toxic("limit_data", bytes=chance.randrange(1_000, 200_000)):
        time.sleep(2)


@fault("feed: half open")
def half_open(world: Deployment, chance: random.Random) -> None:
    with world.feed_proxy.toxic("timeout", timeout=0):
        time.sleep(chance.uniform(2.5, 5))


@fault("feed: frames in pieces")
def pieces(world: Deployment, _: random.Random) -> None:
    with world.feed_proxy.toxic("slicer", average_size=20_000, size_variation=10_000, delay=10):
        time.sleep(3)


@fault("feed: slow network")
def slow(world: Deployment, _: random.Random) -> None:
    with world.feed_proxy.toxic("bandwidth", rate=1_000):
        time.sleep(3)


# ---- the exchange ---------------------------------------------------------------------------------------------------


@fault("exchange: closes for maintenance")
def maintenance(world: Deployment, _: random.Random) -> None:
    world.market.say("close")


@fault("exchange: breaks off")
def breaks_off(world: Deployment, _: random.Random) -> None:
    world.market.say("drop")


@fault("exchange: up and silent")
def silent(world: Deployment, chance: random.Random) -> None:
    world.market.say("freeze")
    time.sleep(chance.uniform(1, 6))
    world.market.say("thaw")


def tape(order: str) -> Fire:
    def fire(world: Deployment, _: random.Random) -> None:
        wait(lambda: listening(world), 60, "somebody listens")
        world.market.say(f"tape {order}")

    return fire


fault("exchange: leaves numbers out")(tape("leave out"))
fault("exchange: sends a frame twice")(tape("twice"))
fault("exchange: sends numbers out of order")(tape("disorder"))
fault("exchange: sends a broken frame")(tape("broken"))


# ---- processes ------------------------------------------------------------------------------------------------------


def process(name: str, number: signal.Signals) -> Fire:
    def fire(world: Deployment, _: random.Random) -> None:
        service = world.services[name]
        wait(lambda: service.running, 60, f"{name} runs")
        service.signal(number)

    return fire


fault("producer: kill -9")(process("producer", signal.SIGKILL))
fault("producer: SIGTERM")(process("producer", signal.SIGTERM))
fault("bronze: kill -9")(process("bronze", signal.SIGKILL))
fault("bronze: SIGTERM")(process("bronze", signal.SIGTERM))
fault("loader: kill -9")(process("loader", signal.SIGKILL))


@fault("producer: stands still")
def producer_stands(world: Deployment, chance: random.Random) -> None:
    _stand(world, "producer", chance.uniform(1, 4))


@fault("bronze: stands still, another one takes over, it wakes up")
def zombie(world: Deployment, chance: random.Random) -> None:
    other = world.second_bronze()
    try:
        _stand(world, "bronze", chance.uniform(8, 12))
        time.sleep(2)
    finally:
        other.end()


def _stand(world: Deployment, name: str, for_s: float) -> None:
    service = world.services[name]
    service.signal(signal.SIGSTOP)
    time.sleep(for_s)
    service.signal(signal.SIGCONT)


# ---- servers --------------------------------------------------------------------------------------------------------


@fault("broker: kill -9 and restart")
def broker(world: Deployment, chance: random.Random) -> None:
    one = world.broker.brokers[0]
    one.kill()
    time.sleep(chance.uniform(0, 3))
    one.start()


@fault("broker: stands still")
def broker_stands(world: Deployment, chance: random.Random) -> None:
    one = world.broker.brokers[0]
    one.pause()
    time.sleep(chance.uniform(1, 6))
    one.resume()


@fault("store: kill -9 and restart")
def store(world: Deployment, chance: random.Random) -> None:
    world.minio.kill()
    time.sleep(chance.uniform(0, 5))
    world.minio.start()


@fault("store: stands still")
def store_stands(world: Deployment, chance: random.Random) -> None:
    world.minio.pause()
    time.sleep(chance.uniform(1, 8))
    world.minio.resume()


@fault("store: answers are lost")
def answers_lost(world: Deployment, _: random.Random) -> None:
    with world.store_proxy.toxic("reset_peer", timeout=20):
        time.sleep(3)


@fault("store: slow network")
def store_slow(world: Deployment, _: random.Random) -> None:
    with world.store_proxy.toxic("latency", latency=400, jitter=300):
        time.sleep(4)
