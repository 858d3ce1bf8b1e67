"""Programs that the doctor asks: run one that may be absent, crash or hang, and read what it said."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    code: int | None  # exit code, negative for a signal; None: it could not be started or did not end in time
    out: str
    err: str


def ask(command: Sequence[str], environ: Mapping[str, str], seconds: float) -> Answer:
    """Run a program that may be absent, crash or hang."""
    try:
        done = subprocess.run(command, env=dict(environ), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"no answer within {seconds:.0f} s")
    except OSError as reason:
        return Answer(None, "", reason.strerror or str(reason))
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def last_line(text: str) -> str:
    """The last line of a traceback or a log: what went wrong, without where."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"
