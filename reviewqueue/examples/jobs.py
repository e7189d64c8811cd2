"""RQ's way into examples."""

from __future__ import annotations

from reviewqueue.examples.retrieve import learn_decided, unlearned


def learn() -> int:
    """Index every decision that is not indexed yet; returns how many there were."""
    done = 0
    while batch := learn_decided():
        done += batch
    return done


def learn_due() -> bool:
    """Whether a decision waits to be indexed."""
    return unlearned()
