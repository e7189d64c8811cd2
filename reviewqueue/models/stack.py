"""Which of several relays leads."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from reviewqueue.db import Base


class Leader(Base):
    """A lease on a duty that only one process may have at a time."""

    __tablename__ = "leader"

    duty: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime]
