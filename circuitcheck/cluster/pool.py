"""Workers on a Ray cluster: parts of patches or whole cases are dealt to them, what a lost one was at again."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from circuitcheck.cluster.worker import Job, Measures, Ran, Recipe, Worker
from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import CircuitcheckError, ConfigurationError
from circuitcheck.core.patch import Patch
from circuitcheck.core.people import plain
from circuitcheck.core.phrases import extra_needed, first_lines, listed
from circuitcheck.core.runtime import Part, Portable, Runtime, Work
from circuitcheck.core.versions import installed
from circuitcheck.gate.parts import Finished, here

LOCAL, RUNNING = "local", "auto"
"""What stands for a cluster on this machine alone, and for the one that runs on it already."""

STORE = 80_000_000
"""Bytes of a local cluster's object store, the least that Ray takes: only numbers pass through it."""

REACHED = 5.0
"""Seconds in which the head of a cluster answers, if there is one."""

STARTED, LOADED = 300.0, 1800.0
"""Seconds in which the first worker is there, which imports PyTorch, and in which one has loaded the model."""

SLOW, PATIENT = 3.0, 20.0
"""A part that takes so many times what the slowest one took, and so many seconds, is dealt to somebody else, too."""

LOOK = 0.5
"""Seconds between two looks at whether anything stalls."""


@dataclass
class Place:
    """One worker, and what it did.

    Attributes:
        actor: its handle.
        node: where it is.
        process: its number there.
        cases: that it finished, by their names.
        parts: of patches that it finished.
        rows: of these.
        seconds: that all this took.
        memory: the most bytes that it has had.
        ended: how it came to its end; empty while it is there.
    """

    actor: Any
    node: str = ""
    process: str = ""
    cases: list[str] = field(default_factory=list)
    parts: int = 0
    rows: int = 0
    seconds: float = 0.0
    memory: int = 0
    ended: str = ""

    def shown(self) -> dict[str, Any]:
        """What the report says of it."""
        names = ("node", "process", "cases", "parts", "rows", "seconds", "memory", "ended")
        return {name: getattr(self, name) for name in names}


@dataclass
class Pool:
    """The workers of a run.

    Attributes:
        address: of a running cluster, `host:port` or `auto`; `local` starts one on this machine.
        threads: how many compute in each worker.
        workers: how many; by default as many as the cluster has processors for.
        places: every worker that there was.
        slowest: seconds that the slowest part so far took.
        slowest_case: and the slowest case.
    """

    address: str
    threads: int
    workers: int | None = None
    places: list[Place] = field(default_factory=list)
    slowest: float = 0.0
    slowest_case: float = 0.0
    _starting: dict[Any, Place] = field(default_factory=dict, repr=False)
    _is_ours: bool = False

    def start(self) -> None:
        """Joins or starts the cluster, and starts a worker for each of its processors.

        Raises:
            ConfigurationError: Ray is not installed, no cluster is at the address, or its workers have other versions.
        """
        ray = _ray()
        require_reachable(self.address)
        options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE}
        if self.address != LOCAL:
            options = {"address": self.address}
        if not ray.is_initialized():
            try:
                ray.init(log_to_driver=False, logging_level="error", **options)
            except (ConnectionError, RuntimeError, OSError, SystemExit) as error:
                raise ConfigurationError(f"--circuit-ray={self.address}: {first_lines(error)}") from error
            self._is_ours = True
        count = max(1, int(ray.cluster_resources().get("CPU", 1)) // self.threads)
        for _ in range(self.workers or count):
            self._start_worker()
        try:
            self._greet(timeout=STARTED)
            if not self._free():
                raise ConfigurationError(
                    f"--circuit-ray={self.address}: no worker was there after {STARTED:g} seconds."
                )
        except CircuitcheckError:
            self.close()
            raise

    def wait_for(self, workers: int, seconds: float = STARTED) -> None:
        """Waits until so many workers are there, or nobody is on the way any more.

        Raises:
            ConfigurationError: one of them has other versions.
        """
        end = time.monotonic() + seconds
        while len(self._free()) < workers and self._starting and time.monotonic() < end:
            self._greet(timeout=LOOK)

    @property
    def count(self) -> int:
        """How many workers are there, or on the way."""
        return len(self._free()) + len(self._starting)

    def close(self) -> None:
        """Ends the workers, and the cluster where it was started here."""
        ray = _ray()
        if not ray.is_initialized():
            return
        for place in self.places:
            if not place.ended:
                ray.kill(place.actor)
                place.ended = "with the run"
        if self._is_ours:
            ray.shutdown()

    def carry(
        self, recipe: Recipe, model: Runtime, patch: Patch, parts: Sequence[Part], work: Work
    ) -> Iterator[tuple[int, Finished]]:
        """Carries out parts on the workers; see `circuitcheck.gate.parts.Carry`.

        What varies the process itself, a runtime that cannot be sent, and what is left when no worker is, runs here.
        """
        if "variation" in work.about or not isinstance(model, Portable) or model.quantity.function is not None:
            yield from here(model, patch, parts, work)
            return
        ray = _ray()
        given = patch.values if isinstance(patch.values, Activations) else None
        values = ray.put(given) if given is not None else None
        sent = patch if given is None else replace(patch, values="zero")
        weights, state = model.facts.fingerprints["weights"], model.state()
        jobs = [
            Job(
                recipe,
                weights,
                state,
                work.about.get("rounding", ""),
                one.prompts,
                one.of(sent),
                work.memory,
                self.threads,
            )
            for one in parts
        ]
        order = sorted(range(len(jobs)), key=lambda number: -parts[number].cost)
        dealing = _Dealing(self, lambda place, number: place.actor.run.remote(jobs[number], values), deque(order))
        for number, ran, place in dealing.results():
            finished: Finished = ran.result
            place.parts += 1
            place.rows += finished.metric.size
            self.slowest = max(self.slowest, ran.seconds)
            work.advance(finished.metric.size)
            yield number, finished
        left = dealing.left()
        for place_left, finished in here(model, patch, [parts[number] for number in left], work):
            yield left[place_left], finished

    def measure(self, start: Callable[[], Measures], cases: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Measures whole cases on the workers, in the order in which they are given; see `Worker.measure`.

        How long one takes is not known: none is given up, but when nothing else is left to do, one that takes long is
        begun once more, and whoever has it first counts.

        Args:
            start: makes what measures them.
            cases: each of a name, which `str` gives.

        Yields:
            Number and result of each, as they come; those that no worker was left for are missing.

        Raises:
            CircuitcheckError: as what measures them does.
        """

        def send(place: Place, number: int) -> Any:
            return place.actor.measure.remote(start, cases[number])

        dealing = _Dealing(self, send, deque(range(len(cases))), are_whole=True)
        for number, ran, place in dealing.results():
            place.cases.append(str(cases[number]))
            self.slowest_case = max(self.slowest_case, ran.seconds)
            yield number, ran.result
        dealing.end_doubles()

    def _start_worker(self) -> None:
        ray = _ray()
        actor = ray.remote(num_cpus=self.threads, max_restarts=0)(Worker).remote(node_id)
        self._starting[actor.hello.remote()] = Place(actor)

    def _greet(self, timeout: float) -> None:
        """Takes in workers that are there by now; those that cannot be used end the run.

        Raises:
            ConfigurationError: one has other versions, or cannot be started.
        """
        ray = _ray()
        ready, _ = ray.wait(list(self._starting), timeout=timeout) if self._starting else ([], [])
        more, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=0) if ready else ([], [])
        for answer in more:
            place = self._starting.pop(answer)
            try:
                said = ray.get(answer)
            except ray.exceptions.RayTaskError as error:
                raise ConfigurationError(
                    f"--circuit-ray={self.address}: a worker cannot be used ({first_lines(error.cause or error)}). "
                    "Install circuitcheck on every machine of the cluster."
                ) from error
            except ray.exceptions.RayError as error:
                place.ended = f"before it began: {first_lines(error)}"
                self.places.append(place)
                continue
            place.process, place.node = said.pop("process"), said.pop("node")[:8]
            require_same(said, self.address)
            self.places.append(place)

    def _free(self) -> list[Place]:
        return [place for place in self.places if not place.ended]


@dataclass
class _Dealing:
    """Parts of one patch, or whole cases, dealt out to the workers of a pool.

    Attributes:
        pool: of workers.
        send: gives one of them what has a number, and returns what its answer is waited for by.
        waiting: numbers of what is still to be dealt, the next one first.
        are_whole: whether they are cases.
    """

    pool: Pool
    send: Callable[[Place, int], Any]
    waiting: deque[int]
    are_whole: bool = False
    running: dict[Any, tuple[int, Place, float]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Takes what there is to do."""
        self.all = set(self.waiting)

    def results(self) -> Iterator[tuple[int, Ran[Any], Place]]:
        """Number, result and worker of each, as they come; ends early where no worker is left."""
        ray = _ray()
        while self.done != self.all:
            self.pool._greet(timeout=0)
            self._deal()
            if not self.running and not self.pool._starting:
                return
            pending = [*self.running, *self.pool._starting]
            ready, _ = ray.wait(pending, timeout=LOOK)
            for answer in ready:
                if answer in self.running:
                    number, place, _ = self.running.pop(answer)
                    ran = self._taken(answer, number, place)
                    if ran is not None and number not in self.done:
                        self.done.add(number)
                        place.seconds += ran.seconds
                        place.memory = max(place.memory, ran.memory)
                        yield number, ran, place
            if not self.are_whole:
                self._end_stalled()

    def left(self) -> list[int]:
        """Numbers of what nobody finished."""
        return sorted(self.all - self.done)

    def end_doubles(self) -> None:
        """Ends workers that are at what others have finished."""
        for _, place, _ in self.running.values():
            _ray().kill(place.actor)
            place.ended = "slow: another worker had finished its case"
            self.pool._start_worker()
        self.running.clear()

    def _taken(self, answer: Any, number: int, place: Place) -> Ran[Any] | None:
        """A result; None where its worker was lost, whose part then waits again."""
        ray = _ray()
        try:
            found: Ran[Any] = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CircuitcheckError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            self._lost(number, place, first_lines(error))
            return None
        return found

    def _lost(self, number: int, place: Place, why: str) -> None:
        place.ended = plain(why)[:200]
        if number not in self.done and number not in self.waiting:
            self.waiting.appendleft(number)
        self.pool._start_worker()

    def _deal(self) -> None:
        busy = {id(place) for _, place, _ in self.running.values()}
        for place in self.pool._free():
            if id(place) in busy:
                continue
            while self.waiting and self.waiting[0] in self.done:
                self.waiting.popleft()
            number = self.waiting.popleft() if self.waiting else self._overdue()
            if number is None:
                return
            self.running[self.send(place, number)] = number, place, time.monotonic()

    def _overdue(self) -> int | None:
        """A case that takes much longer than any did, and is not begun once more yet."""
        if not (self.are_whole and self.pool.slowest_case):
            return None
        patience = max(PATIENT, SLOW * self.pool.slowest_case)
        numbers = [number for number, _, _ in self.running.values()]
        late = (number for number, _, since in self.running.values() if time.monotonic() - since > patience)
        return next((number for number in late if numbers.count(number) == 1), None)

    def _end_stalled(self) -> None:
        """Ends workers that take much longer than any part ever did, and deals their parts anew."""
        ray = _ray()
        patience = max(PATIENT, SLOW * self.pool.slowest)
        for answer, (number, place, since) in list(self.running.items()):
            # The first part of a worker may load the model, which nothing is known about yet.
            if time.monotonic() - since > (patience if place.parts else LOADED):
                del self.running[answer]
                ray.kill(place.actor)
                self._lost(number, place, f"stalled: a part was not done after {patience:.0f} seconds")


def require_reachable(address: str) -> None:
    """Nothing, if something answers at the address of a cluster.

    Raises:
        ConfigurationError: nothing does, or it is no address.
    """
    if address in (LOCAL, RUNNING):
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=REACHED):
            return
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"no Ray cluster answers at {address} ({first_lines(error)}). Give the address of its head, host:port, as "
            "`ray start --head` says it, `auto` for the one on this machine, or leave it out to start one."
        ) from error


def require_same(said: dict[str, str], address: str) -> None:
    """Nothing, if a worker has the versions that this process has.

    Raises:
        ConfigurationError: names what differs.
    """
    here_is = installed()
    other = [
        f"{name} {said.get(name, 'nothing')[:12]}, here {found[:12]}"
        for name, found in here_is.items()
        if said.get(name) != found
    ]
    if other:
        raise ConfigurationError(
            f"--circuit-ray={address}: a worker has {listed(other, 4, '; ')}. Its numbers would be others; install the "
            "same versions on every machine."
        )


def node_id() -> str:
    """The node that a worker is on, as Ray calls it; asked by the worker."""
    return str(_ray().get_runtime_context().get_node_id())


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError(extra_needed("--circuit-ray", "ray")) from error
    return ray
