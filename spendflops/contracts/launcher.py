"""Launchers: they start the workers of a study somewhere. What is done and what is left, the study's folder says."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from spendflops.contracts.registry import API_VERSION

AGAIN = 75
"""A worker that ends with this code was asked to stop, has saved everything, and wants to be started again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Workers that are to be started.

    A worker takes rows until none is left, and ends with 0, or with 1 where rows have failed. It may be started, asked
    to stop (SIGTERM), killed and started again at any moment: nothing is lost, and no row is run twice.

    Attributes:
        command: What one worker runs; the same for all.
        directory: Where it is run.
        folder: Of the study; a launcher keeps its own files in ``launcher/`` inside it.
        workers: How many; 0 for as many as the launcher thinks right.
        say: Receives lines for the user.
    """

    command: tuple[str, ...]
    directory: Path
    folder: Path
    workers: int = 0
    say: Callable[[str], None] = print


class Launcher(abc.ABC):
    """Starts workers. Options are keywords of ``__init__``, each with a default of type str, int, float or bool.

    Attributes:
        here: Whether the workers run on the machine where they are launched.
    """

    api_version: ClassVar[int] = API_VERSION
    here: ClassVar[bool] = False

    @abc.abstractmethod
    def launch(self, job: Job) -> int:
        """Starts the workers, and waits for them or not.

        Returns:
            An exit code: 0 if all went well or was handed over.

        Raises:
            errors.SpendflopsError: Nothing could be started.
        """
