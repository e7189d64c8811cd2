"""Every table of reviewqueue, one file per stage an item passes; the schema in one place."""

from reviewqueue.models.delivery import Attempt, Delivery, Endpoint
from reviewqueue.models.examples import Example, ExampleSet
from reviewqueue.models.finding import Batch, BatchItem, Card, Facet, Mark, SavedView
from reviewqueue.models.intake import Item, Submission
from reviewqueue.models.ledger import LedgerEntry, LedgerHead, LedgerPart
from reviewqueue.models.people import (
    ApiKey,
    Backend,
    Person,
    QueueAccess,
    Secret,
    SignInAttempt,
    SignInLink,
    WebSession,
)
from reviewqueue.models.review import Claim, Comment, Decision, Review, Skip
from reviewqueue.models.routing import Policy, Project, Queue
from reviewqueue.models.stack import Leader

__all__ = [
    "ApiKey",
    "Attempt",
    "Backend",
    "Batch",
    "BatchItem",
    "Card",
    "Claim",
    "Comment",
    "Decision",
    "Delivery",
    "Endpoint",
    "Example",
    "ExampleSet",
    "Facet",
    "Item",
    "Leader",
    "LedgerEntry",
    "LedgerHead",
    "LedgerPart",
    "Mark",
    "Person",
    "Policy",
    "Project",
    "Queue",
    "QueueAccess",
    "Review",
    "SavedView",
    "Secret",
    "SignInAttempt",
    "SignInLink",
    "Skip",
    "Submission",
    "WebSession",
]
