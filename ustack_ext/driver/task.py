"""Tasks: threads of a simulated network of which one runs at a time, so that blocking code stays deterministic.

A task gives way only where it blocks in virtual time, and the next one is chosen by order, never by the scheduler of
the operating system. Not here: what they wait for (world.pyx).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

NEVER = (1 << 64) - 1


class Cancelled(BaseException):
    """The network is closed under a task; not an Exception, so that ordinary handlers let it through."""


class Task:
    """A function that runs as if in a thread of its own; made by Network.spawn()."""

    def __init__(
        self, tasks: Tasks, name: str, function: Callable[..., Any] | None, arguments: tuple[Any, ...], flag: Any
    ) -> None:
        self.name = name
        self._tasks = tasks
        self._function = function
        self._arguments = arguments
        self._flag = flag
        self._value: Any = None
        self.error: BaseException | None = None
        self.observed = False
        self.cancelled = False
        self._baton = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        # what it is blocked on, while it is in tasks.waiting
        self.waiter = 0
        self.deadline = 0
        self.until: Callable[[], Any] | None = None

    @property
    def done(self) -> bool:
        """Whether the function has returned or raised."""
        return bool(self._flag.is_set)

    def result(self, timeout: float | None = None) -> Any:
        """Run the network until the task ends; what its function returned. Raises what it raised, or TimeoutError.

        Parameters: timeout, seconds of virtual time.
        """
        if not self._flag.wait(timeout):
            raise TimeoutError(f"task {self.name!r} did not end in {timeout} s of virtual time")
        self.observed = True
        if self.error is not None:
            raise self.error
        return self._value

    def join(self) -> None:
        """Wait for the thread of a task that is done."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def resume(self) -> None:
        """Let it run: from the start, or from where it blocks.

        The caller stops running before it does anything else.
        """
        if self._thread is None and self._function is not None:
            self._thread = threading.Thread(target=self._main, name=f"sim-{self.name}", daemon=True)
            self._thread.start()
        self._baton.release()

    def pause(self) -> None:
        """Wait to be resumed. Ctrl-C in the main thread is kept until it may run: two tasks must never run together."""
        interrupt: BaseException | None = None
        while True:
            try:
                self._baton.acquire()
                break
            except BaseException as error:
                if interrupt is not None:
                    raise
                interrupt = error
                self.deadline = 0
        self._tasks.took_over(self)
        if interrupt is not None:
            raise interrupt
        if self.cancelled:
            raise Cancelled

    def _main(self) -> None:
        try:
            self.pause()
            self._value = self._call()
        except Cancelled:
            self.observed = True
        except BaseException as error:
            self.error = error
        # What the function used is let go before the next task runs, not whenever this thread ends.
        self._function, self._arguments = None, ()
        self._flag.set()
        self._tasks.ended()

    def _call(self) -> Any:
        function, arguments = self._function, self._arguments
        assert function is not None
        return function(*arguments)

    def __repr__(self) -> str:
        state = "done" if self.done else "failed" if self.error else "not done"
        return f"<Task {self.name!r} {state}>"


class Tasks:
    """Who runs, and who waits for what, in the order they began to wait."""

    def __init__(self, fired: Callable[[int], bool]) -> None:
        self._fired = fired
        self._holder: int | None = None
        self.main: Task | None = None
        self.current: Task | None = None
        self.waiting: list[Task] = []
        self.all: list[Task] = []

    def enter(self) -> None:
        """The calling thread wants to run the world: only the one whose turn it is may."""
        me = threading.get_ident()
        if self._holder == me:
            return
        if self.waiting:
            raise RuntimeError("a simulated network runs one thread at a time: start others with Network.spawn()")
        self._holder = me

    def spawn(self, function: Callable[..., Any], arguments: tuple[Any, ...], name: str | None, flag: Any) -> Task:
        if self.main is None:
            self.enter()
            self.main = self.current = Task(self, "main", None, (), None)
        task = Task(self, name or f"{function.__name__}-{len(self.all)}", function, arguments, flag)
        self.all.append(task)
        self.waiting.append(task)
        return task

    def runnable(self, now: int) -> Task | None:
        """The first in line whose wait is over."""
        for task in self.waiting:
            over = task.cancelled or now >= task.deadline or self._fired(task.waiter)
            if over or (task.until is not None and task.until()):
                return task
        return None

    def earliest(self) -> int:
        return min(task.deadline for task in self.waiting)

    def watched(self) -> bool:
        """Whether somebody waits for a condition that has to be looked at after every event."""
        return any(task.until is not None for task in self.waiting)

    def switch(self, other: Task, waiter: int, deadline: int, until: Callable[[], Any] | None) -> None:
        """The running task blocks and `other` runs; returns when this one's turn comes again."""
        me = self.current
        assert me is not None
        me.waiter, me.deadline, me.until = waiter, deadline, until
        self.waiting.remove(other)
        self.waiting.append(me)
        other.resume()
        me.pause()

    def took_over(self, task: Task) -> None:
        self._holder = threading.get_ident()
        self.current = task

    def ended(self) -> None:
        """The running task's function is through: the first whose wait is over goes on, or else the first in line."""
        following = self.runnable(0) or self.waiting[0]
        self.waiting.remove(following)
        following.resume()

    def cancel_all(self) -> None:
        """End every task where it blocks; called by the main task."""
        for task in list(self.waiting):
            if task is not self.main and task in self.waiting:
                task.cancelled = True
                self.switch(task, 0, 0, None)
        for task in self.all:
            task.join()
