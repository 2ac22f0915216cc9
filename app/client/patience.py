"""How failures are borne: asked again, with longer and longer pauses, for a while."""

import httpx

from app.client.answers import ApiError, unreachable
from app.core.clock import Clock

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
BEFORE_FIRST_ANSWER = 1.0  # a service that has never answered is probably not there, and that is told soon


class Patience:
    """Bears failures in a row for so many seconds."""

    def __init__(self, server: str, seconds: float, has_answered: bool, clock: Clock) -> None:
        self._server, self._clock = server, clock
        self._seconds, self._seconds_of_silence = seconds, seconds if has_answered else BEFORE_FIRST_ANSWER
        self._pause = FIRST_PAUSE
        self._failed_at: float | None = None  # for the first time

    def bear(self, error: ApiError | httpx.TransportError) -> None:
        """Pause and return if it is worth asking again; else raise ApiError."""
        seconds = self._seconds
        if not isinstance(error, ApiError):
            error = ApiError(unreachable(self._server, str(error) or type(error).__name__))
            seconds = self._seconds_of_silence
        self._failed_at = self._failed_at or self._clock.now()
        pause = max(self._pause, error.retry_after)
        if not error.problem.retryable or self._clock.now() + pause > self._failed_at + seconds:
            raise error
        self._clock.wait(pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
