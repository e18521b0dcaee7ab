"""What every table shares. The DDL itself is frozen in `migrations/`; a test holds the two together."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import BigInteger, DateTime, ForeignKey, Integer, Text, func
from sqlalchemy.dialects.postgresql import ARRAY, DOUBLE_PRECISION, JSONB, REAL
from sqlalchemy.orm import DeclarativeBase, mapped_column

Id = Annotated[str, mapped_column(Text, primary_key=True)]
ProjectId = Annotated[str, mapped_column(Text, ForeignKey("projects.id"), nullable=False)]
Created = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp(), nullable=False)
]
PartitionTime = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp(), primary_key=True)
]
Moment = Annotated[datetime, mapped_column(DateTime(timezone=True))]
Big = Annotated[int, mapped_column(BigInteger)]
Json = Annotated[Any, mapped_column(JSONB)]
Double = Annotated[float, mapped_column(DOUBLE_PRECISION)]
Ints = Annotated[list[int], mapped_column(ARRAY(Integer))]
Reals = Annotated[list[float], mapped_column(ARRAY(REAL))]
Texts = Annotated[list[str], mapped_column(ARRAY(Text))]


class Base(DeclarativeBase):
    """The declarative base; strings are `text`, integers 32 bits unless `Big`."""

    type_annotation_map = {str: Text}
