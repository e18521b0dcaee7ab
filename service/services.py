"""What the API process holds: settings, database, store, vault and the outbox, built once in `create_app`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from service.config import Settings
from service.db.engine import AsyncDatabase, Database
from service.queue import Bell, Outbox, celery_app
from service.security import Vault
from service.storage import ArtifactStore, open_store


@dataclass(slots=True)
class Services:
    """Handed to endpoints through `request.app.state.services`."""

    settings: Settings
    database: AsyncDatabase
    outbox: Outbox
    bell: Bell
    store: ArtifactStore
    vault: Vault
    _tasks: set[asyncio.Task[int]] = field(default_factory=set)

    @classmethod
    def build(cls, settings: Settings) -> Services:
        """Connects to nothing yet."""
        return cls(
            settings=settings,
            database=AsyncDatabase(settings.database),
            outbox=Outbox(Database(settings.database, "grape-outbox"), celery_app(settings.broker)),
            bell=Bell(settings.broker),
            store=open_store(settings.storage),
            vault=Vault(settings.require_secret_key()),
        )

    def send_soon(self) -> None:
        """Send the outbox after this request, off the event loop; what fails is sent by a worker's poll thread."""
        task = asyncio.create_task(asyncio.to_thread(self.outbox.flush))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let pending sends finish, then close the pool."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.database.dispose()
