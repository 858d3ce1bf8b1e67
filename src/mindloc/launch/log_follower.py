"""One log, shown on the console as it grows."""

import re
from pathlib import Path

# told by the supervisor, with the rank's name, or MindSpore's own talk of its network
_NOT_SHOWN = re.compile(rb"error: |\[(INFO|WARNING|ERROR)\] [A-Z_]+\(\d+,")


class LogFollower:
    """Prints what a log has gained since it was last asked, but for errors; whole lines while it grows."""

    def __init__(self, path: Path, skip_lines: int = 0):
        """Args: skip_lines: how many at the start are not shown."""
        self._path, self._skip, self._offset, self._rest = path, skip_lines, 0, b""

    def show_new(self, last: bool = False) -> None:
        """Args: last: nothing is written any more, so that a line without an end is shown too."""
        if not self._path.exists():  # its process has not come so far
            return
        with open(self._path, "rb") as log:
            log.seek(self._offset)
            data = log.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if last and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        shown, self._skip = lines[self._skip :], max(0, self._skip - len(lines))
        for line in shown:
            if _NOT_SHOWN.match(line):
                continue
            print(line.decode("utf-8", errors="replace"), flush=True)
