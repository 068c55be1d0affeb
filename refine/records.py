"""What `--report` says of a run of several images: a record of each, those of an earlier run that stay among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from textwrap import indent
from types import TracebackType

from pydantic import JsonValue

from refine.errors import RasterError
from refine.inputs import Job
from refine.report import write_text


class Records:
    """One record for each job, as text, of which a thousand images take little; nothing without a path.

    They are written when the `with` block is left, however that is: one record of one job, else a list.
    """

    def __init__(self, path: Path | None, jobs: Sequence[Job], *, goes_on: bool) -> None:
        self._path, self._jobs = path, jobs
        self._texts: dict[Job, str] = {}
        self._before = _read(path) if path is not None and goes_on else {}

    def add(self, job: Job, record: JsonValue) -> None:
        if self._path is not None:
            self._texts[job] = json.dumps(record, indent=2)

    def keep(self, job: Job) -> None:
        """What the report of the run before says of a finished result, if it is there."""
        about: dict[str, JsonValue] = {"image": str(job.image), "out": str(job.out)}
        self.add(job, {**self._before.get(str(job.out), about), "finished": "before"})

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is None or not self._texts:
            return
        with suppress(RasterError) if error is not None else nullcontext():  # what ended the run is to be told
            write_text(self._path, self._text())

    def _text(self) -> str:
        texts = [self._texts[job] for job in self._jobs if job in self._texts]
        if len(self._jobs) == 1:
            return texts[0] + "\n"
        inside = ",\n".join(indent(text, "  ") for text in texts)
        return f"[\n{inside}\n]\n"


def _read(path: Path) -> dict[str, dict[str, JsonValue]]:
    """The records of an earlier report by their results; nothing if the file is no report."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    records = content if isinstance(content, list) else [content]
    return {str(record["out"]): record for record in records if isinstance(record, dict) and "out" in record}
