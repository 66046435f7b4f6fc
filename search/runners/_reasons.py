"""Why a worker process died, in a sentence, from what Ray says about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """What happened, how many seconds to wait before the job is tried again, and whether that counts as a try."""

    text: str
    wait: float = 0.0
    counts: bool = True


_KNOWN = (
    ("HangingProcessError", Reason("the worker was busy with a job that hangs", counts=False)),
    ("OutOfMemoryError", Reason("the worker was killed because its machine ran out of memory (which other programs "
                                "may have used): fewer run.workers or a smaller train.batch_size may help", 10.0)),
    ("OutOfDiskError", Reason("the disk of the worker's machine is full", 10.0)),
    ("ObjectStoreFullError", Reason("Ray's object store is full", 10.0)),
    ("NodeDiedError", Reason("the worker's machine left the cluster")),
    ("node was terminated", Reason("the worker's machine left the cluster")),
    ("node has been marked dead", Reason("the worker's machine left the cluster")),
)  # fmt: skip


def reason_of(text: str) -> Reason:
    """The reason in the text of a Ray error; the general one where it gives none.

    Example:
        >>> reason_of("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.").wait
        10.0
        >>> reason_of("").text
        'the worker process died (killed, or a crash in a library)'
    """
    for word, reason in _KNOWN:
        if word in text:
            return reason
    return Reason("the worker process died (killed, or a crash in a library)")
