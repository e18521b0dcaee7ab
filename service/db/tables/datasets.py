"""Datasets: rows land in batches; a published batch never changes, so a snapshot is a batch number."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.db.tables.base import Base, Big, Created, Id, Json, ProjectId


class Dataset(Base):
    """The head: how many batches and rows are published, and the hash chain over them."""

    __tablename__ = "datasets"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    name: Mapped[str]
    kind: Mapped[str]
    batches: Mapped[int]
    rows: Mapped[Big]
    last_seq: Mapped[Big]
    hash: Mapped[str]
    created_at: Mapped[Created]


class DatasetBatch(Base):
    """One published batch: rows `first_seq..last_seq`, and the chain's hash after it."""

    __tablename__ = "dataset_batches"

    id: Mapped[Id]
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    project_id: Mapped[ProjectId]
    number: Mapped[int]
    first_seq: Mapped[Big]
    last_seq: Mapped[Big]
    rows: Mapped[int]
    hash: Mapped[str]
    created_at: Mapped[Created]


class DatasetRow(Base):
    """One row, by its sequence number in the dataset."""

    __tablename__ = "dataset_rows"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    seq: Mapped[Big] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    batch_id: Mapped[str] = mapped_column(ForeignKey("dataset_batches.id"))
    content: Mapped[Json]
    content_hash: Mapped[bytes]
