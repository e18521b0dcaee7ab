"""`python -m service.garbage [--dry-run]`: take away what attempts, uploads and caches have left behind.

That is, once an hour old: drafts, folders of the store that no row of the database names (a crash between the rename and the
INSERT, or between the DELETE and the removal), and of a remote store's cache on this host what is longest unused, as far as it is
larger than `storage.cache_gb`. Nothing is taken that does not have the form of a location. Housekeeping does the same.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy.exc import OperationalError, ProgrammingError

from service.config import Settings, StorageSettings
from service.db.engine import Database
from service.db.queries.locations import named_locations, registering_models
from service.storage import DRAFT, ArtifactStore, Kept, open_store

log = logging.getLogger(__name__)

OLD_S = 3600.0
"""What is younger may be somebody's work: a draft, or a folder whose row is about to be written."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A folder that nobody needs, and why."""

    kept: Kept
    why: str
    here: bool
    """Whether only this host's copy goes."""


def find(
    store: ArtifactStore, database: Database, settings: StorageSettings, now: float | None = None
) -> list[Garbage]:
    """What may go. The store is read before the database, so that a row written meanwhile is seen. Raises `OSError`."""
    now = time.time() if now is None else now
    kept = list(store.kept())
    cached = list(store.kept_here()) if store.remote else []
    with database.transaction() as session:
        named = set(session.scalars(named_locations()))
        registering = set(session.scalars(registering_models()))

    def orphans(folders: list[Kept], here: bool) -> Iterator[Garbage]:
        for folder in folders:
            name = folder.location.rsplit("/", 1)[1].removesuffix(DRAFT)
            if now - folder.changed < OLD_S or name in registering:
                continue
            if folder.location.endswith(DRAFT):
                yield Garbage(folder, "a draft that was never finished", here)
            elif folder.location not in named:
                yield Garbage(folder, "no checkpoint or model names it", here)

    found = [*orphans(kept, False), *orphans(cached, True)]
    gone = {garbage.kept.location for garbage in found}
    left = [folder for folder in cached if folder.location not in gone]
    return found + list(_beyond(left, settings.cache_gb * 1e9, now))


def _beyond(cached: list[Kept], limit: float, now: float) -> Iterator[Garbage]:
    """The longest unused of a cache that is too large; what was used in the last hour stays."""
    size = sum(folder.bytes for folder in cached)
    for folder in sorted(cached, key=lambda folder: (folder.changed, folder.location)):
        if size <= limit or now - folder.changed < OLD_S:
            return
        size -= folder.bytes
        yield Garbage(folder, "the cache is larger than storage.cache_gb, and it is the longest unused", True)


def sweep(store: ArtifactStore, garbage: list[Garbage]) -> int:
    """Take it away; the bytes."""
    for one in garbage:
        (store.forget if one.here else store.remove)(one.kept.location)
    return sum(one.kept.bytes for one in garbage)


def housekeeping(store: ArtifactStore, database: Database, settings: StorageSettings) -> None:
    """Find and sweep; a store that does not answer is left for the next time."""
    try:
        garbage = find(store, database, settings)
        size = sweep(store, garbage)
    except OSError as error:
        log.warning("garbage: %s", error)
        return
    if garbage:
        log.info("garbage: %d folders, %.1f MB", len(garbage), size / 1e6)


def main(say: Callable[[str], object] = lambda line: sys.stdout.write(line + "\n")) -> int:
    """The command; 1 with one sentence if the database or the store cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m service.garbage", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and let it lie")
    dry = parser.parse_args().dry_run
    settings = Settings()
    database = Database(settings.database, "grape-garbage")
    try:
        store = open_store(settings.storage)
        garbage = find(store, database, settings.storage)
        for one in garbage:
            hours = (time.time() - one.kept.changed) / 3600
            where = f" (in {store.root})" if one.here else ""
            say(f"{one.kept.location}{where}: {one.kept.bytes / 1e6:.1f} MB, {hours:.0f} h old; {one.why}")
        size = sum(one.kept.bytes for one in garbage) if dry else sweep(store, garbage)
    except (OSError, OperationalError, ProgrammingError, RuntimeError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        sys.stderr.write(f"nothing was taken away: {reason}\n")
        return 1
    finally:
        database.dispose()
    say(f"{len(garbage)} folders, {size / 1e6:.1f} MB {'would go' if dry else 'are gone'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
