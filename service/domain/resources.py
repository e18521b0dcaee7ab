"""What a job asks of the worker that runs it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from service.domain.base import Value


class ResourceSpec(Value):
    """What a worker must have to run it.

    With several `processes` (of one machine; on GPUs each has its own) weights, gradients and moments are spread over them, and
    every step's sequences are shared out; losses and weights are those of one process up to the order of summation.
    """

    processes: Annotated[int, Field(ge=1, le=64)] = 1
