"""Records of a long evaluation: JSON lines that only grow, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavin.errors import InputError


class Records:
    """A file of JSON objects, one a line, under a first line that says how they were made.

    Args:
        path: made with its folder if it does not exist; else read, and continued. A last line that was cut off when
            a run was killed is dropped.
        protocol: all that a record depends on.

    Raises:
        InputError: the file was made in another way, is no such file, or cannot be written.
    """

    def __init__(self, path: str | Path, protocol: dict[str, Any]):
        self.path, self.protocol = Path(path), json.loads(json.dumps(protocol))
        self._found: list[dict[str, Any]] = []
        try:
            if self.path.exists() and self.path.stat().st_size:
                self._found = self._read()
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._write(json.dumps({"protocol": self.protocol}) + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read and written ({error.strerror})") from error

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self):
        return iter(self._found)

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Write records to the end, on the disk when it returns."""
        self._write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
        self._found += records

    def _write(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> list[dict[str, Any]]:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            header, *records = [json.loads(line) for line in whole.splitlines()]
            made = header["protocol"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path}: no file of records, or damaged; name another folder") from error
        self._check(made)
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        return records

    def _check(self, made: dict[str, Any]) -> None:
        """Refuse to mix records of two kinds."""
        for name in sorted({*made, *self.protocol}):
            if made.get(name) != self.protocol.get(name):
                raise InputError(
                    f"{self.path} has records with {name} {made.get(name)}, not {self.protocol.get(name)}; "
                    "name another folder, or run with the same settings to go on"
                )
