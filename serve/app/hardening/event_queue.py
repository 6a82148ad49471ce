"""Gradio's queue of calls and its sessions, bounded, and without polling.

gradio_client sends every call through the queue: it joins, and reads the result from a stream. By default, Gradio's
queue has no bound, keeps the results that nobody reads, and starts an event up to 50 ms late. This app's functions
share the engine's queue, so they need no order here, no estimates of their time, and no progress.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from copy import copy
from datetime import datetime
from itertools import islice
from typing import Any

import gradio as gr
from gradio import route_utils
from gradio.queueing import Event, Queue
from gradio.server_messages import EventMessage
from gradio.state_holder import SessionState, StateHolder
from gradio.utils import run_coro_in_background, set_task_name

from serve.app.hardening.refusals import refusal
from serve.app.hardening.streams import Streams

# How many calls may run at once, and how many may wait for that.
AT_ONCE = 40
WAITING = 128
# How many calls of one session may wait, run, or have a result that nobody has read.
UNREAD = 64
# How many sessions, and results in all, are kept for clients that have not read them yet.
UNREAD_SESSIONS = 256
UNREAD_RESULTS = 1024
# Messages that wait for a session's stream; there are two for each call.
MESSAGES = 4 * UNREAD
# Sessions whose values (the last drawing, the choices of the dropdowns) are kept.
SESSIONS = 1000
# Most characters of a session's name, which clients choose. Gradio's own have 36 at most.
NAME = 128


class _Mailbox(asyncio.Queue[EventMessage]):
    """The messages that wait for a session's stream. If it is full, further ones are lost, as nobody reads them."""

    def put_nowait(self, item: EventMessage) -> None:
        if not self.full():
            super().put_nowait(item)

    async def put(self, item: EventMessage) -> None:
        self.put_nowait(item)


class _Mailboxes(dict[str, Any]):
    """The mailboxes by session. Gradio creates queues without a bound, and deletes some of them twice."""

    def __setitem__(self, session: str, _: object) -> None:
        super().__setitem__(session, _Mailbox(MESSAGES))

    def __delitem__(self, session: str) -> None:
        self.pop(session, None)


class BoundedQueue(Queue):
    """A queue that refuses calls (503) when too many wait, and starts them without delay.

    Args:
        page: The page whose calls it takes.
    """

    def __init__(self, page: gr.Blocks) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=AT_ONCE,
            update_intervals=1,
            max_size=WAITING,
            blocks=page,
            default_concurrency_limit=None,
        )
        self.pending_messages_per_session = _Mailboxes()  # type: ignore[assignment]
        self.pending_event_ids_session = defaultdict(set)
        self.ANALYTICS_MAX_EVENTS = 0
        self._changed = asyncio.Event()

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Add a call, unless too many wait."""
        session = body.session_hash
        if session in self.pending_event_ids_session and len(self.pending_event_ids_session[session]) >= UNREAD:
            return False, f"the queue is full: at most {UNREAD} calls of a session may wait", "queue_full"
        if len(self) >= WAITING:
            return False, f"the queue is full: at most {WAITING} calls may wait", "queue_full"
        added = await super().push(body, request, username)
        self._forget_unread()
        self._changed.set()
        return added

    def _forget_unread(self) -> None:
        """Forget the oldest results that nobody has read, if there are too many."""
        sessions = self.pending_event_ids_session
        excess = len(sessions) - UNREAD_SESSIONS
        results = sum(map(len, sessions.values())) - UNREAD_RESULTS
        if excess <= 0 and results <= 0:
            return
        finished = (name for name, events in sessions.items() if events.isdisjoint(self.event_ids_to_events))
        for name in list(islice(finished, max(excess, 0))) if results <= 0 else list(finished):
            if excess <= 0 and results <= 0:
                break
            excess -= 1
            results -= len(sessions.pop(name))
            del self.pending_messages_per_session[name]

    async def start_processing(self) -> None:
        """Start each call as soon as it is there and fewer than AT_ONCE run."""
        try:
            while not self.stopped:
                self._changed.clear()
                while None in self.active_jobs and (ready := self.get_events()) is not None:
                    self._start(*ready)
                await self._changed.wait()
        finally:
            self.stopped = True
            self._cancel_asyncio_tasks()  # type: ignore[no-untyped-call]

    def _start(self, events: list[Event], batch: bool, concurrency_id: str) -> None:
        self.active_jobs[self.active_jobs.index(None)] = events
        first, began = events[0], time.time()
        queue = self.event_queue_per_concurrency_id[concurrency_id]
        queue.current_concurrency += 1
        queue.start_times_per_fn[first.fn].add(began)
        task = run_coro_in_background(self.process_events, events, batch, began, first.fn)
        set_task_name(task, first.session_hash, first.fn._id, first._id, batch)
        self._asyncio_tasks.add(task)
        task.add_done_callback(self._asyncio_tasks.discard)

    async def process_events(self, events: list[Event], *arguments: Any) -> None:
        """Run a call, and forget what nobody will ask for."""
        try:
            await super().process_events(events, *arguments)
        finally:
            for event in events:
                if not event.alive and event.session_hash in self.pending_event_ids_session:
                    self.pending_event_ids_session[event.session_hash].discard(event._id)
                if event.session_hash == event._id:  # a call without a session; Gradio made one for it alone
                    self.blocks.state_holder.session_data.pop(event._id, None)
            self._changed.set()

    async def clean_events(self, *, session_hash: str | None = None, event_id: str | None = None) -> None:
        """Forget the calls of a client that has left its stream, and the results that went with it."""
        await super().clean_events(session_hash=session_hash, event_id=event_id)
        if session_hash is not None and session_hash not in self.pending_messages_per_session:
            self.pending_event_ids_session.pop(session_hash, None)

    def close(self) -> None:
        """Stop."""
        super().close()  # type: ignore[no-untyped-call]
        self._changed.set()

    async def start_progress_updates(self) -> None:
        """Do nothing: no function of the app reports progress."""

    def broadcast_estimations(self, *_: Any, **__: Any) -> None:
        """Do nothing. Gradio would send each waiting call a message whenever another starts (its issue 13154)."""

    def compute_analytics_summary(self, *_: Any) -> dict[str, dict[str, Any]]:
        """Do nothing. Gradio would summarise its last 10,000 events after each event, for a page that is closed."""
        return self.cached_event_analytics_summary


class _Session(SessionState):
    """A session without a copy of the page's description.

    Gradio keeps it for links that this server does not have. It takes tens of kilobytes, and milliseconds to make: two
    thirds of a call to /run without a session, for which Gradio makes one.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self.blocks_config = copy(page.default_config)
        self.config_values = {}
        self.state_data = {}
        self._state_ttl: dict[int, tuple[float, datetime]] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: Any) -> None:
        block = self.blocks_config.blocks.get(key)
        if isinstance(block, gr.State):
            self._state_ttl[key] = (block.time_to_live, datetime.now())
            self.state_data[key] = value
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class Sessions(StateHolder):
    """The values of visitors' sessions. Beyond SESSIONS, the oldest without an open page is forgotten.

    So a stranger who makes up sessions cannot make the server forget those of visitors.
    """

    def __init__(self, page: gr.Blocks, streams: Streams) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        page.state_session_capacity = SESSIONS
        self.set_blocks(page)
        self._streams = streams

    def __getitem__(self, session_id: str) -> Any:
        if len(session_id) > NAME:
            raise refusal(f"session_hash is too long: at most {NAME} characters")
        if session_id not in self.session_data:
            self.session_data[session_id] = _Session(self.blocks)
        return super().__getitem__(session_id)

    def update(self, session_id: str) -> None:
        """Note that a session is used, and forget one if there are too many."""
        with self.lock:
            self.session_data.move_to_end(session_id)
            if len(self.session_data) <= self.capacity:
                return
            old = next(name for name in self.session_data if name not in self._streams.sessions)
            del self.session_data[old]
            self.time_last_used.pop(old, None)


def bound(page: gr.Blocks, application: gr.routes.App, streams: Streams) -> None:
    """Replace the queue and the sessions of a mounted page, before it starts.

    The class of the sessions of calls without one is replaced for the whole process.
    """
    route_utils.SessionState = _Session  # type: ignore[assignment, attr-defined]
    page._queue = BoundedQueue(page)
    page._queue.set_server_app(application)
    application.state_holder = Sessions(page, streams)
